"""What a test of SQS and SNS needs around it: the emulator, a proxy that makes calls fail, and objects of its own.

All tests share emulator, proxy and the threads that call, since starting them takes longer than most tests do.
"""

from __future__ import annotations

import functools
import os
from typing import Any
from unittest import mock

import boto3

from chatflow.broker.aws import Aws
from chatflow.broker.calls import BlockingCalls
from chatflow.broker.names import Names
from chatflow.broker.setup import set_up
from chatflow.lifecycle.blocking import at_once
from testbed.emulator import aws_environment, fresh_prefix, shared_emulator
from testbed.fault_proxy import FaultProxy
from tests.support.reactor import reactor


def make_objects(*, rooms: int, room_queues: int = 0) -> Names:
    """What ``chatflow-admin setup`` makes, with a prefix of its own."""
    names = Names(fresh_prefix(), rooms, room_queues)
    at_once(set_up(BlockingCalls(shared_aws().clients), names, lambda line: None))
    return names


def start_aws(*, polls: int, sends: int, **options: Any) -> Aws:
    """An instance's calls, which go through the shared proxy."""
    aws = Aws(reactor=reactor, polls=polls, sends=sends, **options)
    with mock.patch.dict(os.environ, aws_environment(shared_proxy().url)):
        aws.start()
    return aws


@functools.cache
def shared_aws() -> Aws:
    """With more polls at a time than the queues of a test; its daemon threads end with the process."""
    return start_aws(polls=48, sends=8)


@functools.cache
def shared_proxy() -> FaultProxy:
    """Its thread ends with the process."""
    proxy = FaultProxy(shared_emulator().url)
    proxy.start()
    return proxy


@functools.cache
def direct_client(service: str) -> Any:
    """A client of the emulator that goes past the proxy."""
    session = boto3.session.Session("test", "test", region_name="us-east-1")
    make: Any = session.client  # its annotations take no name that is not literal
    return make(service, endpoint_url=shared_emulator().url)
