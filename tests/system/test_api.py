"""The HTTP API: pages of history in both directions, rooms, who is there; and it keeps to its own description."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from testbed.client import ChatClient, Frame
from testbed.daemon import Daemon
from testbed.waiting import eventually

DAEMON_OPTIONS = ("--rooms", "30")

_SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "st"


def get(daemon: Daemon, path: str, status: int = 200) -> Any:
    answer = daemon.get(path)
    assert answer.status == status, answer.body
    return answer.json()


def texts(page: Any) -> list[str]:
    return [one["message"] for one in page["messages"]]


@pytest.fixture(scope="module")
def said(daemon: Daemon) -> list[Frame]:
    """25 messages of user 7 in room 20, one of user 8 there, and one of user 7 in room 21: the broadcasts."""
    with ChatClient(daemon.chat_url(20)) as client:
        for number in range(25):
            client.send(f"{number}", userId="7", username="ann")
        client.send("other", userId="8", username="bob", messageType="JOIN")
        frames = [client.receive_kind("broadcast") for _ in range(26)]
    with ChatClient(daemon.chat_url(21)) as client:
        client.send("elsewhere", userId="7", username="ann")
        return [*frames, client.receive_kind("broadcast")]


def walk(daemon: Daemon, page: Any, link: str) -> Iterator[Any]:
    """The page and those behind it."""
    yield page
    while page[link]:
        page = get(daemon, page[link])
        yield page


class TestRoomMessages:
    def test_they_are_shown_as_they_were_broadcast(self, daemon: Daemon, said: list[Frame]) -> None:
        page = get(daemon, "/api/rooms/20/messages")
        assert page == {"roomId": "20", "messages": said[:26], "next": None, "previous": None}

    def test_the_newest_page_comes_first_and_links_lead_to_the_first_message(
        self, daemon: Daemon, said: list[Frame]
    ) -> None:
        pages = list(walk(daemon, get(daemon, "/api/rooms/20/messages?limit=10"), "previous"))
        assert [len(page["messages"]) for page in pages] == [10, 10, 6]
        assert [one for page in reversed(pages) for one in page["messages"]] == said[:26]

    def test_links_lead_forward_as_well(self, daemon: Daemon, said: list[Frame]) -> None:
        pages = list(walk(daemon, get(daemon, "/api/rooms/20/messages?after=0&limit=10"), "next"))
        assert [one for page in pages for one in page["messages"]] == said[:26]
        back = get(daemon, pages[1]["previous"])
        assert back["messages"] == pages[0]["messages"]
        assert get(daemon, back["next"])["messages"] == pages[1]["messages"]

    def test_a_walk_forward_ends_at_the_bound_that_it_began_with(self, daemon: Daemon, said: list[Frame]) -> None:
        pages = list(walk(daemon, get(daemon, "/api/rooms/20/messages?after=2&before=24&limit=10"), "next"))
        assert [one["seq"] for page in pages for one in page["messages"]] == list(range(3, 24))

    def test_no_link_leads_to_what_retention_dropped(self, daemon: Daemon) -> None:
        with ChatClient(daemon.chat_url(22)) as client:
            client.talk([f"{number}" for number in range(10)])
        daemon.sql("DELETE FROM messages WHERE room_id = 22 AND seq <= 5")
        assert get(daemon, "/api/rooms/22/messages?after=3&limit=3")["previous"] is None
        assert (
            get(daemon, "/api/rooms/22/messages?after=10")["previous"] == "/api/rooms/22/messages?limit=100&before=11"
        )
        daemon.sql("DELETE FROM messages WHERE room_id = 22")
        assert get(daemon, "/api/rooms/22/messages?after=10")["previous"] is None

    def test_both_bounds_are_exclusive(self, daemon: Daemon, said: list[Frame]) -> None:
        assert texts(get(daemon, "/api/rooms/20/messages?after=3&before=6")) == ["3", "4"]
        assert texts(get(daemon, "/api/rooms/20/messages?before=1")) == []
        assert texts(get(daemon, "/api/rooms/20/messages?after=26")) == []
        assert texts(get(daemon, "/api/rooms/20/messages?after=9007199254740992")) == []

    def test_links_are_headers_too(self, daemon: Daemon, said: list[Frame]) -> None:
        answer = daemon.get("/api/rooms/20/messages?limit=10")
        assert answer.headers["link"] == f'<{answer.json()["previous"]}>; rel="prev"'

    def test_an_empty_room_has_an_empty_page(self, daemon: Daemon) -> None:
        empty: dict[str, Any] = {"roomId": "30", "messages": [], "next": None, "previous": None}
        assert get(daemon, "/api/rooms/30/messages") == empty


class TestUsers:
    def test_messages_of_all_rooms_come_newest_first_in_pages(self, daemon: Daemon, said: list[Frame]) -> None:
        own = [frame for frame in said if frame["userId"] == "7"]
        pages = list(walk(daemon, get(daemon, "/api/users/7/messages?limit=10"), "next"))
        assert [one for page in pages for one in page["messages"]] == own[::-1]
        assert pages[0]["previous"] is None
        assert get(daemon, pages[2]["previous"])["messages"] == pages[1]["messages"]

    def test_an_empty_page_leads_back(self, daemon: Daemon, said: list[Frame]) -> None:
        whole = get(daemon, "/api/users/7/messages?limit=26")
        newest = get(daemon, "/api/users/7/messages?limit=1")
        newer = get(daemon, newest["next"])["previous"]  # what is newer than the second
        assert get(daemon, newer)["messages"] == newest["messages"]
        place = newest["next"].partition("before=")[2]
        empty = get(daemon, f"/api/users/7/messages?limit=26&after={place}")
        assert (empty["messages"], empty["previous"]) == ([], None)
        assert get(daemon, empty["next"])["messages"] == whole["messages"]
        oldest = list(walk(daemon, whole, "next"))[-1]["messages"]
        assert len(oldest) == 26
        empty = get(daemon, "/api/users/7/messages?before=1-1-1&limit=26")
        assert (empty["messages"], empty["next"]) == ([], None)
        assert get(daemon, empty["previous"])["messages"] == whole["messages"]
        assert get(daemon, "/api/users/99/messages?after=1-1-1") == {
            "userId": "99", "messages": [], "next": None, "previous": None,
        }  # fmt: skip

    def test_a_range_of_time_includes_its_beginning(self, daemon: Daemon, said: list[Frame]) -> None:
        first, later = said[0]["timestamp"], said[10]["timestamp"]
        page = get(daemon, f"/api/users/7/messages?from={quote(first)}&to={quote(later)}")
        assert page["messages"] == [frame for frame in said if first <= frame["timestamp"] < later][::-1]

    def test_rooms_tell_what_the_user_did_there(self, daemon: Daemon, said: list[Frame]) -> None:
        eight = get(daemon, "/api/users/8/rooms")
        moment = said[25]["timestamp"]
        assert eight == {
            "userId": "8",
            "rooms": [
                {"roomId": "20", "messages": 1, "texts": 0, "joins": 1, "leaves": 0}
                | {"firstActivity": moment, "lastActivity": moment}
            ],
        }
        assert [(one["roomId"], one["messages"]) for one in get(daemon, "/api/users/7/rooms")["rooms"]] == [
            ("20", 25),
            ("21", 1),
        ]
        assert get(daemon, "/api/users/99/rooms") == {"userId": "99", "rooms": []}


class TestRooms:
    def test_every_room_has_its_head_its_members_and_its_last_activity(self, daemon: Daemon, said: list[Frame]) -> None:
        with ChatClient(daemon.chat_url(20)), ChatClient(f"{daemon.chat_url(20)}?userId=7&username=ann"):
            eventually(lambda: get(daemon, "/api/rooms")["rooms"][19]["members"] == 2, "both are counted")
            rooms = get(daemon, "/api/rooms")["rooms"]
            assert [room["roomId"] for room in rooms] == [str(number) for number in range(1, 31)]
            assert rooms[19] == {"roomId": "20", "head": 26, "members": 2, "lastActivity": said[25]["timestamp"]}
            assert rooms[29] == {"roomId": "30", "head": 0, "members": 0, "lastActivity": None}
            assert get(daemon, "/api/rooms/20/presence") == {
                "roomId": "20",
                "members": 2,
                "users": [{"userId": "7", "username": "ann", "connections": 1}],
                "truncated": False,
            }

    def test_they_come_in_pages(self, daemon: Daemon) -> None:
        pages = list(walk(daemon, get(daemon, "/api/rooms?limit=20"), "next"))
        assert [len(page["rooms"]) for page in pages] == [20, 10]


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/api/rooms/31/messages", 404, "room must be an integer from 1 to 30"),
        ("/api/rooms/01/messages", 404, "room must be"),
        ("/api/rooms/1/messages?limit=0", 400, "limit must be an integer from 1 to 1000"),
        ("/api/rooms/1/messages?limit=1001", 400, "limit must be"),
        ("/api/rooms/1/messages?limit=", 400, "limit must be"),
        ("/api/rooms/1/messages?before=-1", 400, "before must be"),
        ("/api/rooms/1/messages?befor=1", 400, "there is no parameter befor: it takes after, before, limit"),
        ("/api/rooms/1/messages?limit=1&limit=2", 400, "limit is given more than once"),
        ("/api/rooms/1/messages?limit=%FF", 400, "limit must be"),
        ("/api/rooms/1/presence?x=1", 400, "there is no parameter x: it takes none"),
        ("/api/users/0/rooms", 404, "id must be"),
        ("/api/users/7/messages?after=1", 400, "after must be a place as links have it"),
        ("/api/users/7/messages?from=2026-11-23", 400, "from must be an ISO-8601 time with a zone"),
        ("/api/users/7/messages?from=2026-13-23T00:00:00Z", 400, "from must be"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(daemon: Daemon, path: str, status: int, told: str) -> None:
    answer = get(daemon, path, status)
    assert answer["status"] == "ERROR"
    assert answer["errorMessage"].startswith(told)


def test_other_methods_are_refused(daemon: Daemon) -> None:
    answer = daemon.get("/api/rooms", method="POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_while_the_database_is_away_it_says_so_and_when_to_come_back(daemon: Daemon, said: list[Frame]) -> None:
    with daemon.held_database():
        answer = daemon.get("/api/rooms")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["code"] == "unavailable"
    eventually(lambda: daemon.get("/api/rooms").status == 200, "it answers again")


def test_it_keeps_to_its_own_description(daemon: Daemon, said: list[Frame], tmp_path: Path) -> None:
    """Schemathesis makes requests that the document allows and others that it does not, and judges the answers."""
    run = subprocess.run(
        [
            *(
                _SCHEMATHESIS,
                "--config-file",
                Path(__file__).with_name("schemathesis.toml"),
                "run",
                f"http://127.0.0.1:{daemon.port}/api/openapi.json",
            ),
            *("--max-examples", "30", "--seed", "1", "--generation-database", "none", "--no-color"),
            *("--phases", "examples,coverage,fuzzing", "--workers", "1", "--continue-on-failure"),
        ],
        cwd=tmp_path,  # it leaves a directory behind
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
