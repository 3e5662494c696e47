"""Messages at the edge of what one may be: refused in words, or stored as they are, and never a dead letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.client import ChatClient, message
from testbed.daemon import Daemon


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[ChatClient]:
    with ChatClient(daemon.chat_url(1)) as client:
        yield client


def answer(client: ChatClient, frame: str) -> dict[str, Any]:
    client.send_frame(frame)
    while True:
        received = client.receive()
        if "status" in received:
            return received


def changed(**fields: object) -> str:
    return json.dumps({**message(), **fields})


def raw(user_id: str) -> str:
    """A message whose userId is a number, written like this."""
    return changed(userId=0).replace('"userId": 0', f'"userId": {user_id}')


def with_more(text: str) -> str:
    """A message with a field that nobody knows."""
    return f'{{"x": {text}, {json.dumps(message())[1:]}'


_STORED = {
    "userId with zeros before it": changed(userId="00012"),
    "the largest userId": changed(userId="100000"),
    "the first moment there is": changed(timestamp="0001-01-01T00:00:00Z"),
    "a moment before the first": changed(timestamp="0001-01-01T00:00:00+15:59"),
    "the last moment there is": changed(timestamp="9999-12-31T23:59:59.999999999Z"),
    "a moment after the last": changed(timestamp="9999-12-31T23:59:59-15:59"),
    "nine digits, far east": changed(timestamp="2026-06-30T10:00:00.123456789+14:00"),
    "an unknown offset": changed(timestamp="2026-06-30T10:00:00-00:00"),
    "a key twice, the last counts": json.dumps(message("first"))[:-1] + ', "message": "second"}',
    "an escape in a key": json.dumps(message()).replace('"message"', '"\\u006dessage"'),
    "blanks and line ends around it": f" \r\n\t{json.dumps(message())}\n ",
    "300 objects in another": with_more('{"a":' * 300 + "1" + "}" * 300),
    "an endless number elsewhere": with_more("1e999"),
    "3,000 digits elsewhere": with_more("9" * 3000),
    "no character": changed(message="\ufdd0\uffff\U0010ffff"),
    "not assigned": changed(message="\u0378"),
    "nothing to see": changed(message="\u200b\ufeff"),
    "250 letters of two code points": changed(message="e\u0301" * 250),
}

_REFUSED = {
    "userId of seven digits": (changed(userId="0100000"), "userId"),
    "userId with a sign": (changed(userId="+5"), "userId"),
    "userId with a blank": (changed(userId=" 5"), "userId"),
    "userId 1.0": (raw("1.0"), "userId"),
    "userId 1e3": (raw("1e3"), "userId"),
    "userId of 23 digits": (raw("9" * 23), "userId"),
    "userId 01": (raw("01"), None),
    "a leap second": (changed(timestamp="2026-06-30T23:59:60Z"), "timestamp"),
    "midnight as 24:00": (changed(timestamp="2026-06-30T24:00:00Z"), "timestamp"),
    "an offset of 16 hours": (changed(timestamp="2026-06-30T10:00:00+16:00"), "timestamp"),
    "an offset without a colon": (changed(timestamp="2026-06-30T10:00:00+0200"), "timestamp"),
    "small t and z": (changed(timestamp="2026-06-30t10:00:00z"), "timestamp"),
    "a comma": (changed(timestamp="2026-06-30T10:00:00,5Z"), "timestamp"),
    "a week": (changed(timestamp="2026-W27-2T10:00:00Z"), "timestamp"),
    "digits of another script": (changed(timestamp="\u0662026-06-30T10:00:00Z"), "timestamp"),
    "a key twice, of which one is wrong": ('{"message": 5, ' + json.dumps(message())[1:], "message"),
    "a key in another case": (json.dumps(message()).replace('"message"', '"Message"'), "message"),
    "a byte order mark": ("\ufeff" + json.dumps(message()), None),
    "something behind it": (json.dumps(message()) + " x", None),
    "an escaped NUL": (json.dumps(message("Q")).replace('"Q"', '"a\\u0000b"'), "message"),
    "half a character": (json.dumps(message("Q")).replace('"Q"', '"\\udc00\\ud800"'), None),
    "251 letters of two code points": (changed(message="e\u0301" * 251), "message"),
}


def test_what_is_taken_is_stored_as_it_is_and_nothing_is_set_aside(daemon: Daemon, client: ChatClient) -> None:
    given = {name: answer(client, frame) for name, frame in _STORED.items()}
    assert {name: got for name, got in given.items() if got["status"] != "SUCCESS"} == {}
    ids = [got["messageId"] for got in given.values()]
    stored = daemon.sql("SELECT message_id::text, message_text FROM messages WHERE message_id = ANY(%s::uuid[])", ids)
    last = {name: dict(json.loads(frame.strip()))["message"] for name, frame in _STORED.items()}
    assert dict(stored) == {given[name]["messageId"]: text for name, text in last.items()}
    assert daemon.sql("SELECT count(*) FROM dead_letters") == [(0,)]


@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_not_taken_is_told_with_the_field_at_fault(client: ChatClient, name: str) -> None:
    frame, field = _REFUSED[name]
    got = answer(client, frame)
    code = "missing_field" if "case" in name else "invalid_field" if field else "invalid_json"
    assert (got["status"], got["code"], got.get("field")) == ("ERROR", code, field)


def test_names_of_messages_are_the_same_only_when_every_character_is(client: ChatClient) -> None:
    names = ["a", "A", "a ", " a", "e\u0301", "\u00e9", "\n", "\u2028", "\u00e9" * 64]
    ids = {answer(client, changed(clientMessageId=name))["messageId"] for name in names}
    assert len(ids) == len(names)
    assert {answer(client, changed(clientMessageId=name))["messageId"] for name in names} == ids
    other = answer(client, changed(clientMessageId="a", message="another"))
    assert (other["code"], other["field"]) == ("id_conflict", "clientMessageId")
    assert answer(client, changed(clientMessageId="a", message="another", userId=77))["status"] == "SUCCESS"
