"""``docs/protocol.rst`` says what the code does: every example, error code and close code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import chatflow
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.edge import close_codes, v2
from chatflow.edge.publishing import STATUSES
from chatflow.errors import TRANSIENT_CODES, ErrorCode, Refused
from chatflow.rooms.messages import RULES, Broadcast, acknowledgement, broadcast, decode, encode_error

encode = msgspec.json.encode

_TEXT = (Path(__file__).parent.parent / "docs" / "protocol.rst").read_text(encoding="utf-8")

EXAMPLES: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"\.\. code-block:: json\n\n((?:    .*\n)+)", _TEXT)
]


def example(**having: Any) -> dict[str, Any]:
    """The one example with these fields."""
    (found,) = [one for one in EXAMPLES if all(one.get(name) == value for name, value in having.items())]
    return found


def shape(value: Any) -> Any:
    """Names and types."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


def column(title: str) -> set[str]:
    """The names in the first column of the table behind some text."""
    table = _TEXT[_TEXT.index(title) :].split("\n\n")
    rows = next(part for part in table if part.startswith("=="))
    return set(re.findall(r"^``(\w+)``", rows, re.MULTILINE))


def fields(kind: Any) -> set[str]:
    """Those of a struct, by their names on the wire."""
    return {field.encode_name for field in msgspec.structs.fields(kind)}


_SENT = {"userId": "12345", "username": "user12345", "message": "Hello", "messageType": "TEXT"}


def test_the_client_message_is_one_that_is_accepted() -> None:
    (sent,) = [one for one in EXAMPLES if "timestamp" in one and "username" in one and "roomId" not in one]
    assert decode(json.dumps(sent).encode()).username == "user12345"
    assert column("Unknown fields are ignored. Each message") == set(RULES)


def test_acknowledgement_error_and_broadcast_have_the_shape_of_those_that_are_sent() -> None:
    original = decode(json.dumps({**_SENT, "timestamp": "2026-11-23T10:30:00Z"}).encode())
    message = Message("id", 0, 1, "ann", "Hello", "TEXT", original.timestamp)
    assert shape(example(status="SUCCESS")) == shape(json.loads(encode(acknowledgement(message, original))))
    refused = Refused("invalid_field", RULES["username"], "username")
    assert shape(example(status="ERROR")) == shape(json.loads(encode_error(refused, 0)))
    assert example(status="ERROR")["errorMessage"] == RULES["username"]
    (shown,) = [one for one in EXAMPLES if "seq" in one and "serverId" in one]
    assert shape(shown) == shape(json.loads(encode(broadcast(StoredMessage(1, 42, "node-1", message)))))


def test_every_field_of_acknowledgement_error_and_broadcast_is_explained_and_no_other() -> None:
    assert column("**Acknowledgement**") == set(example(status="SUCCESS"))
    assert column("**Error**") == set(example(status="ERROR"))
    assert column("**Broadcast**") == fields(Broadcast)


@pytest.mark.parametrize("kind", get_args(v2.Frame), ids=lambda kind: kind.__struct_config__.tag)
def test_the_example_of_each_frame_is_one(kind: Any) -> None:
    shown = example(type=kind.__struct_config__.tag)
    frame = msgspec.convert(shown, kind, strict=True)
    assert msgspec.to_builtins(frame) == shown


@pytest.mark.parametrize("kind", get_args(v2.Frame), ids=lambda kind: kind.__struct_config__.tag)
def test_every_field_of_each_frame_is_explained_and_no_other(kind: Any) -> None:
    assert column(f"**{kind.__struct_config__.tag}**") == fields(kind)


def test_so_is_what_frames_hold() -> None:
    assert column("by the names below") == fields(v2.Limits)
    users = _TEXT[_TEXT.index("``users``") : _TEXT.index("``truncated``")]
    assert set(re.findall(r"``(\w+)``", users)) == {"users"} | fields(v2.User)


def test_the_welcome_shows_the_limits_as_they_are() -> None:
    limits = example(type="welcome")["limits"]
    assert limits == msgspec.to_builtins(v2.Limits(limits["maxFrameBytes"], limits["maxPendingMessages"]))
    assert example(type="welcome")["heartbeatSeconds"] == v2.HEARTBEAT_SECONDS


def test_every_error_code_is_explained_and_no_other() -> None:
    assert column("The codes:") == set(get_args(ErrorCode))


def test_every_code_has_a_status_in_http_but_those_that_only_connections_are_told() -> None:
    of_connections = {"binary_frame", "since_beyond_head", "since_expired", "invalid_parameter"}
    of_tokens = {"invalid_token", "token_expired"}  # 401, before the message is looked at
    assert set(get_args(ErrorCode)) - STATUSES.keys() == of_connections | of_tokens


def test_the_browsers_client_sends_again_after_the_same_codes() -> None:
    script = (Path(chatflow.__file__).parent / "edge" / "pages" / "chatflow.js").read_text(encoding="utf-8")
    (told,) = re.findall(r"^const TRANSIENT = new Set\((\[.*?\])\);", script, re.MULTILINE)
    assert set(json.loads(told)) == TRANSIENT_CODES


def test_what_may_be_sent_again_is_a_matter_of_load_or_of_the_server() -> None:
    assert {STATUSES[code] for code in TRANSIENT_CODES} == {429, 503}
    assert {code for code, status in STATUSES.items() if status in (429, 503)} == TRANSIENT_CODES


def test_the_close_codes_are_those_that_are_sent() -> None:
    explained = set(map(int, re.findall(r"^([14][0-9]{3})  ", _TEXT, re.MULTILINE)))
    own = {value for name, value in vars(close_codes).items() if name.isupper()}
    assert explained == {1002, 1007, 1009, *own}
