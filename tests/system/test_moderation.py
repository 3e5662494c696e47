"""Mutes, bans and disconnections on a running daemon; in a cluster: tests/system/test_any_instance.py."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from websockets.exceptions import InvalidStatus

from chatflow.admin import main as chatflow_admin
from testbed.client import ChatClient, kind
from testbed.daemon import Daemon, running_daemon
from testbed.http_client import Answer, request
from testbed.postgres import execute
from testbed.waiting import eventually

DAEMON_OPTIONS = ("--rooms", "1000")

#: What is promised, and a little for a busy machine.
_SECONDS = 7.0


def admin(url: str, *arguments: str) -> None:
    """A command that must succeed."""
    assert chatflow_admin([*arguments, "--database", url]) == 0


def refusal(daemon: Daemon, room: int, query: str = "") -> tuple[int, str]:
    """Status and code of a handshake's answer; 101 if it is let in."""
    try:
        with ChatClient(daemon.chat_url(room) + query):
            return 101, ""
    except InvalidStatus as error:
        return error.response.status_code, json.loads(error.response.body or b"{}")["code"]


def send(client: ChatClient, user: int, text: str = "Hello") -> str:
    """A message; its acknowledgement or the code of its error."""
    client.send(text, userId=str(user))
    while kind(frame := client.receive()) == "broadcast":
        pass
    return "ack" if kind(frame) == "ack" else str(frame["code"])


def until(wanted: str, client: ChatClient, user: int) -> None:
    eventually(lambda: send(client, user) == wanted, f"{wanted} for user {user}", _SECONDS)


def test_a_muted_user_may_read_and_others_may_write(daemon: Daemon, module_database_url: str, room: int) -> None:
    with ChatClient(daemon.chat_url(room)) as client, ChatClient(daemon.chat_url(room)) as other:
        assert send(client, 70) == "ack"
        admin(module_database_url, "mute", "--user", "70", "--reason", "spam")
        until("muted", client, 70)
        assert send(other, 70) == "muted", "whichever way it comes"
        assert send(client, 71, "from another") == "ack"
        while other.receive_kind("broadcast")["message"] != "from another":
            pass
        admin(module_database_url, "unmute", "--user", "70")
        until("ack", client, 70)


def test_a_ban_closes_with_its_own_code_and_refuses_the_next_handshake(
    daemon: Daemon, module_database_url: str, room: int
) -> None:
    who = "?userId=72&username=somebody"
    with ChatClient(daemon.chat_url(room) + who) as client:
        admin(module_database_url, "ban", "--user", "72", "--reason", "spam", "--for", "1h")
        assert client.wait_closed() == 4403
    assert refusal(daemon, room, who) == (403, "banned")
    answer = request(daemon.port, "GET", f"/chat/{room}{who}")
    assert (answer.status, answer.json()["code"]) == (403, "banned"), "a page may ask why"
    assert "spam" in answer.json()["errorMessage"]
    assert refusal(daemon, room, "?userId=73&username=somebody") == (101, "")
    admin(module_database_url, "unban", "--user", "72")
    eventually(lambda: refusal(daemon, room, who) == (101, ""), "let in again", _SECONDS)


def test_an_address_is_kept_out_of_a_room(daemon: Daemon, module_database_url: str, room: int) -> None:
    with ChatClient(daemon.chat_url(room)) as client, ChatClient(daemon.chat_url(room + 500)) as elsewhere:
        admin(module_database_url, "ban", "--address", "127.0.0.0/8", "--room", str(room))
        assert client.wait_closed() == 4403
        assert send(elsewhere, 1) == "ack"
    assert refusal(daemon, room) == (403, "banned")
    for what in ("messages", "presence", "%6dessages"):
        answer = request(daemon.port, "GET", f"/api/rooms/{room}/{what}")
        assert (answer.status, answer.json()["code"]) == (403, "banned"), "nor may it read what is said"
        assert request(daemon.port, "GET", f"/api/rooms/{room + 500}/{what}").status == 200
    admin(module_database_url, "unban", "--address", "127.0.0.0/8", "--room", str(room))


def test_a_disconnection_closes_who_spoke_as_the_user_and_lets_it_come_back(
    daemon: Daemon, module_database_url: str, room: int
) -> None:
    with ChatClient(daemon.chat_url(room)) as spoke, ChatClient(daemon.chat_url(room)) as other:
        assert (send(spoke, 74), send(other, 75)) == ("ack", "ack")
        admin(module_database_url, "disconnect", "--user", "74")
        assert spoke.wait_closed() == 4000
        with ChatClient(daemon.chat_url(room)) as again:
            assert send(again, 74) == "ack"
            assert send(other, 75) == "ack"


def test_a_mute_with_an_end_is_over_by_itself(daemon: Daemon, module_database_url: str, room: int) -> None:
    with ChatClient(daemon.chat_url(room)) as client:
        admin(module_database_url, "mute", "--room", str(room), "--for", "3s")
        until("muted", client, 76)
        until("ack", client, 76)


def test_every_message_sent_while_a_mute_comes_is_acknowledged_and_stored_or_refused(
    daemon: Daemon, module_database_url: str, room: int
) -> None:
    answers: list[str] = []
    with ChatClient(daemon.chat_url(room)) as client:
        ordered = threading.Thread(target=admin, args=(module_database_url, "mute", "--user", "77"))
        ordered.start()
        while answers[-50:] != ["muted"] * 50:
            client.send(f"{len(answers)}", userId="77")
            while kind(frame := client.receive()) == "broadcast":
                pass
            answers.append("ack" if kind(frame) == "ack" else frame["code"])
            assert len(answers) < 20_000
        ordered.join()
    first = answers.index("muted")
    assert set(answers[:first]) == {"ack"} and set(answers[first:]) == {"muted"}, "none after the first refusal"
    stored = execute(module_database_url, "SELECT count(*) FROM messages WHERE room_id = %s", (room,))
    assert stored == [(first,)]


def test_each_order_is_in_the_log_with_who_and_why(daemon: Daemon, module_database_url: str) -> None:
    admin(module_database_url, "mute", "--user", "78", "--reason", "for the log")
    eventually(lambda: "mute of user 78 until it is lifted, ordered by " in daemon.output(), "the line", _SECONDS)
    assert "for the log" in daemon.output()
    admin(module_database_url, "unmute", "--user", "78")
    eventually(lambda: "mute of user 78 is lifted by " in daemon.output(), "its end", _SECONDS)


def test_what_was_in_force_is_in_force_after_a_restart_from_the_first_handshake_on(
    daemon: Daemon, module_database_url: str, room: int
) -> None:
    admin(module_database_url, "ban", "--room", str(room))
    daemon.kill()
    daemon.restart()
    assert refusal(daemon, room) == (403, "banned")
    assert "in force: " in daemon.output()
    admin(module_database_url, "unban", "--room", str(room))


def test_while_the_database_is_away_it_stays_in_force(daemon: Daemon, module_database_url: str, room: int) -> None:
    admin(module_database_url, "ban", "--room", str(room))
    eventually(lambda: refusal(daemon, room) == (403, "banned"), "kept out", _SECONDS)
    execute(module_database_url, "ALTER TABLE sanctions RENAME TO elsewhere")
    try:
        age = daemon.counter("chatflow_sanctions_age_seconds")
        eventually(lambda: daemon.counter("chatflow_sanctions_age_seconds") > age + 2, "it is told", _SECONDS)
        assert refusal(daemon, room) == (403, "banned")
        assert daemon.output().count("the sanctions cannot be read") == 1
    finally:
        execute(module_database_url, "ALTER TABLE elsewhere RENAME TO sanctions")
    admin(module_database_url, "unban", "--room", str(room))
    eventually(lambda: refusal(daemon, room) == (101, ""), "and so it is again when it is back", _SECONDS)


def test_the_api_is_closed_where_operators_cannot_be_told_from_others(daemon: Daemon) -> None:
    for method, path, body in (
        ("GET", "/api/moderation", None),
        ("POST", "/api/moderation/ban", b'{"userId": 1}'),
        ("DELETE", "/api/moderation/ban?userId=1", None),
    ):
        answer = request(daemon.port, method, path, {"Content-Type": "application/json"}, body)
        assert (answer.status, answer.json()["code"]) == (403, "forbidden")
        assert "--admin-token-file" in answer.json()["errorMessage"]


def test_an_operator_orders_and_lifts_over_http(module_database_url: str, tmp_path: Path, room: int) -> None:
    secret = "a-token-of-an-operator-0123456789"
    (tmp_path / "admin").write_text(secret)
    (tmp_path / "admin").chmod(0o600)
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    options = ("--rooms", "1000", "--admin-token-file", str(tmp_path / "admin"))
    with running_daemon(*options, database=module_database_url) as guarded:

        def ask(method: str, path: str, body: bytes | None = None, **more: str) -> Answer:
            return request(guarded.port, method, f"/api/moderation{path}", {**headers, **more}, body)

        with ChatClient(guarded.chat_url(room)) as client:
            assert ask("POST", "/mute", b'{"userId": 80, "reason": "spam"}').status == 200
            assert send(client, 80) == "muted", "at once, on this instance"
            listed = ask("GET", "").json()["sanctions"]
            assert ("mute", "80", "spam") in [(one["action"], one["userId"], one["reason"]) for one in listed]
            assert ask("DELETE", "/mute?userId=80").status == 200
            assert send(client, 80) == "ack"
            assert ask("DELETE", "/mute?userId=80").status == 404
            assert ask("POST", "/disconnect", f'{{"roomId": {room}}}'.encode()).status == 200
            assert client.wait_closed() == 4000
        assert ask("POST", "/ban", b'{"userId": 80}', Authorization="Bearer wrong").status == 401
        assert ask("POST", "/ban", b'{"userId": 80}', Origin="https://elsewhere.example").status == 403
        assert ask("POST", "/dance", b'{"userId": 80}').status == 404
