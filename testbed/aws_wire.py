"""Calls to SQS and SNS as they look on the wire: enough to name one, and to answer it wrongly. Pure functions.

SQS speaks AWS JSON 1.0 (operation in ``X-Amz-Target``), SNS the AWS Query protocol (``Action`` in a form; XML back).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode
from xml.sax.saxutils import escape

from attrs import frozen

_QUEUE_NAME = re.compile(rb'"QueueUrl": *"[^"]*/([^"/]+)"')
_QUERY_ENTRY = re.compile(r"PublishBatchRequestEntries\.(?:member|entry)\.(\d+)\.(.+)")
_XMLNS = "http://sns.amazonaws.com/doc/2010-03-31/"


@frozen
class Call:
    """One request. ``is_json``: of SQS, otherwise of SNS."""

    operation: str
    is_json: bool
    body: bytes

    @classmethod
    def of(cls, headers: Mapping[str, str], body: bytes) -> Call:
        """The call in a request; header names are in lower case."""
        target = headers.get("x-amz-target", "")
        if target:
            return cls(target.rpartition(".")[2], True, body)
        return cls(parse_qs(body.decode("ascii", "replace")).get("Action", ["?"])[0], False, body)

    @property
    def queue(self) -> str:
        """The name of the queue that it is for; empty if it is for none."""
        found = _QUEUE_NAME.search(self.body) if self.is_json else None
        return found[1].decode("ascii", "replace") if found else ""

    def server_error(self) -> tuple[int, bytes]:
        """Status and body of an answer that says: something broke here."""
        return self._error(500, "InternalFailure" if self.is_json else "InternalError", "Receiver", "injected")

    def throttled(self) -> tuple[int, bytes]:
        """Status and body of an answer that says: you call too often."""
        if self.is_json:
            return self._error(400, "ThrottlingException", "Sender", "Rate exceeded")
        return self._error(429, "Throttled", "Sender", "Rate exceeded")

    def without_every_second_entry(self) -> tuple[Call | None, list[str]]:
        """What is left of a batch call, None if nothing, and the ids of the entries taken out; of others, nothing."""
        if self.is_json:
            content = json.loads(self.body)
            entries = content.get("Entries", [])
            content["Entries"] = entries[1::2]
            body = json.dumps(content).encode()
        else:
            form = parse_qsl(self.body.decode("ascii"), keep_blank_values=True)
            entries = _query_entries(form)
            rest = [(name, value) for name, value in form if not _QUERY_ENTRY.match(name)]
            for number, entry in enumerate(entries[1::2], 1):
                rest += [(f"PublishBatchRequestEntries.member.{number}.{name}", value) for name, value in entry.items()]
            body = urlencode(rest).encode()
        if not entries:
            return self, []
        left = Call(self.operation, self.is_json, body) if len(entries) > 1 else None
        return left, [entry["Id"] for entry in entries[::2]]

    def with_failed(self, answer: bytes | None, failed: list[str]) -> bytes:
        """The answer to a batch call in which these entries failed besides; ``answer``: to the others, if any."""
        if self.is_json:
            content: dict[str, Any] = json.loads(answer) if answer else {"Successful": []}
            content["Failed"] = content.get("Failed", []) + [
                {"Id": entry_id, "Code": "InternalError", "Message": "injected", "SenderFault": False}
                for entry_id in failed
            ]
            return json.dumps(content).encode()
        members = "".join(
            f"<member><Id>{escape(entry_id)}</Id><Code>InternalError</Code><Message>injected</Message>"
            "<SenderFault>false</SenderFault></member>"
            for entry_id in failed
        )
        empty = (
            f'<{self.operation}Response xmlns="{_XMLNS}"><{self.operation}Result><Successful></Successful>'
            f"<Failed></Failed></{self.operation}Result></{self.operation}Response>"
        )
        return (answer or empty.encode()).replace(b"</Failed>", members.encode() + b"</Failed>")

    def _error(self, status: int, code: str, fault: str, message: str) -> tuple[int, bytes]:
        if self.is_json:
            return status, json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": message}).encode()
        return status, (
            f'<ErrorResponse xmlns="{_XMLNS}"><Error><Type>{fault}</Type><Code>{code}</Code>'
            f"<Message>{message}</Message></Error><RequestId>injected</RequestId></ErrorResponse>"
        ).encode()

    @property
    def content_type(self) -> str:
        """Of an answer."""
        return "application/x-amz-json-1.0" if self.is_json else "text/xml"


def _query_entries(form: list[tuple[str, str]]) -> list[dict[str, str]]:
    entries: dict[int, dict[str, str]] = {}
    for name, value in form:
        found = _QUERY_ENTRY.match(name)
        if found:
            entries.setdefault(int(found[1]), {})[found[2]] = value
    return [entries[number] for number in sorted(entries)]
