"""Messages over HTTP, to a running daemon: what is taken, what is refused and how, what is as in a frame."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from testbed.client import ChatClient, message
from testbed.daemon import Daemon
from testbed.http_client import Answer, request
from testbed.postgres import execute
from testbed.waiting import eventually
from tests.system.test_moderation import admin

DAEMON_OPTIONS = ("--rooms", "1000", "--allowed-origins", "https://app.example")

_JSON = {"Content-Type": "application/json"}


def publish(daemon: Daemon, room: object, body: Any = None, **headers: str) -> Answer:
    """:param body: a message by default; bytes are sent as they are."""
    content = body if isinstance(body, bytes) else json.dumps(message() if body is None else body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(daemon.port, "POST", f"/api/rooms/{room}/messages", {**_JSON, **named}, content)


def refusal(answer: Answer) -> tuple[int, str, str | None]:
    body = answer.json()
    assert body["status"] == "ERROR" and body["errorMessage"]
    return answer.status, body["code"], body.get("field")


def test_a_message_is_acknowledged_as_in_a_frame_and_seen_by_the_room(daemon: Daemon, room: int) -> None:
    with ChatClient(daemon.chat_url(room)) as member:
        answer = publish(daemon, room, message("over HTTP", clientMessageId="mine"))
        seen = member.receive_kind("broadcast")
        member.send("over HTTP", clientMessageId="mine")
        by_frame = member.receive_kind("ack")
    assert answer.status == 201
    parts = ("status", "messageId", "originalMessage")  # the time is that of each answer
    assert [answer.json()[part] for part in parts] == [by_frame[part] for part in parts]
    assert (seen["messageId"], seen["message"], seen["seq"]) == (answer.json()["messageId"], "over HTTP", 1)


def test_a_message_that_is_sent_again_is_stored_once_and_answered_the_same(
    daemon: Daemon, module_database_url: str, room: int
) -> None:
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(publish(daemon, room, Idempotency_Key="key-1")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {201}
    assert len({answer.json()["messageId"] for answer in answers}) == 1
    assert answers[0].json()["originalMessage"]["clientMessageId"] == "key-1"
    stored = "SELECT client_message_id, host(client_ip) FROM messages WHERE room_id = %s"
    assert execute(module_database_url, stored, (room,)) == [("key-1", "127.0.0.1")]
    assert refusal(publish(daemon, room, message("another"), Idempotency_Key='"key-1"')) == (
        409,
        "id_conflict",
        "clientMessageId",
    )


def test_the_key_of_the_body_counts_first_and_one_that_breaks_the_rule_is_refused(daemon: Daemon, room: int) -> None:
    answer = publish(daemon, room, message(clientMessageId="a"), Idempotency_Key="b")
    assert (answer.status, answer.json()["originalMessage"]["clientMessageId"]) == (201, "a")
    wrong = (400, "invalid_field", "clientMessageId")
    for key in ("", '""', "x" * 65, "é"):
        assert refusal(publish(daemon, room, Idempotency_Key=key)) == wrong, key


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", (400, "invalid_json", None)),
        (b"[]", (400, "invalid_json", None)),
        (b'{"message": "\xff"}', (400, "invalid_json", None)),
        (b"\xef\xbb\xbf{}", (400, "invalid_json", None)),
        (b"[" * 20_000, (413, "too_large", None)),
        (message(username=None), (400, "missing_field", "username")),
        (message(username="x"), (400, "invalid_field", "username")),
        (message(userId="0"), (400, "invalid_field", "userId")),
        (message(timestamp="yesterday"), (400, "invalid_field", "timestamp")),
        (message("\0"), (400, "invalid_field", "message")),
        (message("x" * 501), (400, "invalid_field", "message")),
        (message(more="x" * 17_000), (413, "too_large", None)),
    ],
)
def test_what_a_frame_may_not_be_is_refused_with_the_same_code(
    daemon: Daemon, room: int, body: Any, told: tuple[int, str, str | None]
) -> None:
    answer = publish(daemon, room, body)
    assert refusal(answer) == told
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/json; charset=UTF-8"}, 201),
        ({"Content_Type": "Application/JSON"}, 201),
        ({"Content_Type": "application/json; charset=latin-1"}, 415),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Encoding": "gzip"}, 415),
    ],
)
def test_only_json_in_utf8_is_taken(daemon: Daemon, room: int, headers: dict[str, str], status: int) -> None:
    answer = publish(daemon, room, **headers)
    assert answer.status == status
    if status == 415:
        assert refusal(answer) == (415, "unsupported_media_type", None)
        assert answer.headers["accept-post"] == "application/json"


@pytest.mark.parametrize("room", ["0", "01", "1001", "x", "%31%20"])
def test_a_room_that_there_is_not_is_404(daemon: Daemon, room: str) -> None:
    assert refusal(publish(daemon, room)) == (404, "no_such_room", None)


def test_other_methods_are_told_which_there_are(daemon: Daemon) -> None:
    answer = request(daemon.port, "PUT", "/api/rooms/1/messages", _JSON, b"{}")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")


def test_a_page_of_an_allowed_origin_may_send_and_read_the_answer(daemon: Daemon, room: int) -> None:
    preflight = request(
        daemon.port,
        "OPTIONS",
        f"/api/rooms/{room}/messages",
        {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, idempotency-key",
        },
    )
    assert preflight.status == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert "content-type" in allowed and "idempotency-key" in allowed
    answer = publish(daemon, room, Origin="https://app.example")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (201, "https://app.example")


def test_a_page_of_another_origin_may_not_send(daemon: Daemon, room: int) -> None:
    answer = publish(daemon, room, Origin="https://elsewhere.example")
    assert (answer.status, answer.json()["code"]) == (403, "origin_not_allowed")


def test_who_is_muted_or_banned_is_told_so(daemon: Daemon, module_database_url: str, room: int) -> None:
    admin(module_database_url, "mute", "--user", "90")
    admin(module_database_url, "ban", "--room", str(room + 500))
    eventually(lambda: publish(daemon, room, message(userId="90")).status == 403, "refused", 7)
    assert refusal(publish(daemon, room, message(userId="90"))) == (403, "muted", None)
    assert refusal(publish(daemon, room + 500)) == (403, "banned", None)
    assert publish(daemon, room, message(userId="91")).status == 201


def test_a_client_that_leaves_before_the_answer_leaves_its_message(
    daemon: Daemon, module_database_url: str, room: int
) -> None:
    body = json.dumps(message("left behind")).encode()
    head = f"POST /api/rooms/{room}/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    query = "SELECT count(*) FROM messages WHERE room_id = %s AND message_text = 'left behind'"
    eventually(lambda: execute(module_database_url, query, (room,)) == [(1,)], "it is stored")
    assert "Traceback" not in daemon.output()


def test_what_is_counted_of_frames_is_counted_of_these(daemon: Daemon, room: int) -> None:
    names = ("messagesReceived", "messagesPublished", "messagesFailed", "acksSent", "acksFailed")
    before = [daemon.metric("handler", name) for name in names]
    publish(daemon, room)
    publish(daemon, room, b"")
    after = [daemon.metric("handler", name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1, 1, 1, 0]


def test_the_line_of_the_documentation_works(daemon: Daemon, room: int, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "apt-get install curl"
    page = (Path(__file__).parents[2] / "docs/protocol.rst").read_text(encoding="utf-8")
    (line,) = re.findall(r"    (curl .*\n(?:      .*\n)*)", page)
    line = line.replace("http://localhost:8080/api/rooms/1/", f"http://127.0.0.1:{daemon.port}/api/rooms/{room}/")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert json.loads(done.stdout)["status"] == "SUCCESS", done.stdout + done.stderr
