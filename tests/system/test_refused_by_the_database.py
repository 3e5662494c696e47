"""A message that PostgreSQL refuses, though it is well formed: it is set aside, and nobody waits for it."""

from __future__ import annotations

from chatflow.codec.envelopes import decode
from testbed.client import ChatClient, kind
from testbed.daemon import running_daemon
from testbed.postgres import execute
from testbed.recounting import recount


def test_its_sender_is_told_it_lies_among_the_dead_letters_and_all_else_is_stored(database_url: str) -> None:
    # Stands for whatever a database may come to refuse: there is no message known that ours does.
    execute(database_url, "ALTER TABLE messages ADD CHECK (message_text <> 'poison')")
    with (
        running_daemon(database=database_url) as daemon,
        ChatClient(daemon.chat_url(1)) as poisoner,
        ChatClient(daemon.chat_url(1)) as neighbour,
        ChatClient(daemon.chat_url(2)) as stranger,
    ):
        with daemon.held_database():  # so that one batch holds them all
            stranger.send("before")
            poisoner.send("poison")
            for number in range(3):
                stranger.send(f"{number}")
        error = poisoner.receive()
        assert (error["status"], error["code"]) == ("ERROR", "not_stored")
        frames = [stranger.receive() for _ in range(8)]
        assert [frame["message"] for frame in frames if kind(frame) == "broadcast"] == ["before", "0", "1", "2"]

        assert poisoner.frames_until_now() == [], "its connection lives on"
        heard = neighbour.receive()
        assert (heard["seq"], heard["message"].startswith("until now")) == (1, True), "and so does its room"

        ((room, payload, reason),) = daemon.sql("SELECT room_id, payload, reason FROM dead_letters")
        assert room == 1
        assert [message.text for message in decode(payload).messages] == ["poison"]
        assert "check" in reason
        assert daemon.counter("chatflow_envelopes_set_aside_total") == 1
        assert daemon.get("/db-metrics").json()["persistence"]["insert_errors"] == 1
        assert "poison" not in daemon.output(), "a message's text is not for the log"
    assert recount(database_url) == {}
