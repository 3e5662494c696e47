"""One emulator of CloudFormation and one stack on it, for those tests that only look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import frozen

from scripts.aws.template import render
from testbed.emulator import Emulator
from testbed.stack import SERVICES, Stacks, emulable

ROOMS = 3
PARAMETERS = {"ArtefactBucket": "releases-of-ours", "ReleaseKey": "releases/chatflow-0.2.0.tar.gz"}


@frozen
class Stack:
    """A stack that was made.

    :ivar resources: physical ids by names in the template.
    """

    name: str
    outputs: dict[str, str]
    resources: dict[str, str]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """An account of a module's own, for those tests that change it."""
    emulator = Emulator(f"sts,{SERVICES}")
    try:
        yield emulator.start()
    finally:
        emulator.stop()


@pytest.fixture(scope="session")
def stacks() -> Iterator[Stacks]:
    """CloudFormation, with nothing in it."""
    emulator = Emulator(SERVICES)
    try:
        yield Stacks(emulator.start())
    finally:
        emulator.stop()


@pytest.fixture(scope="session")
def stack(stacks: Stacks) -> Stack:
    """With the defaults, for three rooms."""
    outputs = stacks.create("chat", emulable(render(ROOMS)), **PARAMETERS)
    return Stack("chat", outputs, stacks.resources("chat"))
