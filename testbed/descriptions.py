"""botocore's descriptions of AWS: megabytes of JSON, which each session of boto3's reads and parses anew.

A run of the tests makes a thousand sessions, and was busy with that for a minute.
"""

from __future__ import annotations

import functools
from typing import Any

from botocore.loaders import JSONFileLoader, create_loader

_OF_ALL = ("endpoints", "partitions", "sdk-default-configuration", "_retry")
_OF_A_SERVICE = ("service-2", "endpoint-rule-set-1")


def keep_descriptions() -> None:
    """Have this process, and those that are forked from it, parse each file once."""
    parse = JSONFileLoader.load_file

    @functools.cache
    def parsed(path: str) -> Any:
        return parse(JSONFileLoader(), path)

    JSONFileLoader.load_file = lambda _, path: parsed(path)  # type: ignore[method-assign, assignment]


def read_descriptions() -> None:
    """Parse those of the services that ChatFlow uses, for those that are forked."""
    loader = create_loader()
    for name in _OF_ALL:
        loader.load_data(name)
    for service in ("sqs", "sns"):
        for name in _OF_A_SERVICE:
            loader.load_service_model(service, name)
