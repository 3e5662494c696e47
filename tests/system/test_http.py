"""HTTP on the chat's port: health, metrics, the page."""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from testbed.client import ChatClient
from testbed.daemon import Daemon
from testbed.http_client import send_request

_INTEGER, _BOOLEAN, _TEXT = int, bool, str

# The reference's shapes: names of keys and types of values.
HEALTH = {
    "serverId": _TEXT,
    "timestamp": _INTEGER,
    "sqsHealthy": _BOOLEAN,
    "consumerHealthy": _BOOLEAN,
    "writeManagerHealthy": _BOOLEAN,
    "databaseHealthy": _BOOLEAN,
    "databaseConfigured": _BOOLEAN,
    "status": _TEXT,
}
METRICS = {
    "serverId": _TEXT,
    "timestamp": _INTEGER,
    "handler": dict.fromkeys(
        ("messagesReceived", "messagesPublished", "messagesFailed", "acksSent", "acksFailed"), _INTEGER
    ),
    "sqs": {"messagesSent": _INTEGER},
    "consumer": {
        "messagesProcessed": _INTEGER,
        "messagesFailed": _INTEGER,
        "messagesDeletedWithoutBroadcast": _INTEGER,
        "isRunning": _BOOLEAN,
    },
    "rooms": {
        "totalSessions": _INTEGER,
        "activeRooms": _INTEGER,
        "messagesBroadcast": _INTEGER,
        "broadcastFailures": _INTEGER,
        "roomStats": {"3": _INTEGER},
    },
    "writeManager": dict.fromkeys(
        (
            *("messagesSent", "messagesQueued", "messagesDropped", "writeErrors"),
            *("activeSessions", "activeWriterThreads"),
        ),
        _INTEGER,
    ),
}
DATABASE_METRICS = {
    "serverId": _TEXT,
    "timestamp": _INTEGER,
    "persistence": dict.fromkeys(("messages_inserted", "insert_errors", "user_activity_updates"), _INTEGER),
}


def shape(value: Any) -> Any:
    """Keys and types instead of values."""
    return {key: shape(each) for key, each in value.items()} if isinstance(value, dict) else type(value)


@pytest.fixture
def busy(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon with two members in room 3, one of whom said ten things and one wrong one."""
    with ChatClient(daemon.chat_url(3)) as one, ChatClient(daemon.chat_url(3)) as two:
        for number in range(10):
            one.send(f"{number}")
        one.send_frame("?")
        for _ in range(21):
            one.receive()
        for _ in range(10):
            two.receive()
        yield daemon


class TestHealth:
    def test_it_has_the_references_shape(self, daemon: Daemon) -> None:
        answer = daemon.get("/health")
        body = answer.json()
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert shape(body) == HEALTH
        assert body["status"] == "UP" and body["databaseHealthy"] is True
        assert abs(body["timestamp"] / 1000 - time.time()) < 60

    @pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
    def test_supervisors_are_answered_with_200(self, daemon: Daemon, path: str) -> None:
        answer = daemon.get(path)
        assert (answer.status, answer.json()) == (200, {"status": "UP"})

    def test_no_cache_may_keep_it(self, daemon: Daemon) -> None:
        for path in ("/health", "/health/live", "/health/ready", "/metrics", "/db-metrics"):
            assert daemon.get(path).headers["cache-control"] == "no-store"


class TestMetrics:
    def test_as_json_it_has_exactly_the_references_keys(self, busy: Daemon) -> None:
        answer = busy.get("/metrics")
        assert answer.headers["content-type"] == "application/json"
        assert shape(answer.json()) == METRICS

    def test_they_count_what_was_done(self, daemon: Daemon, request: pytest.FixtureRequest) -> None:
        before = daemon.get("/metrics").json()
        rows_before = daemon.get("/db-metrics").json()["persistence"]
        request.getfixturevalue("busy")
        after = daemon.get("/metrics").json()
        rows_after = daemon.get("/db-metrics").json()["persistence"]

        def grown(section: str, key: str) -> int:
            return int(after[section][key] - before[section][key])

        assert grown("handler", "messagesReceived") == 11
        assert grown("handler", "messagesPublished") == grown("handler", "acksSent") == 10
        assert grown("handler", "messagesFailed") == 1
        assert grown("handler", "acksFailed") == 0
        assert grown("consumer", "messagesProcessed") == 10
        assert grown("rooms", "messagesBroadcast") == 20, "deliveries, not messages"
        assert after["rooms"]["roomStats"] == {"3": 2}
        assert after["rooms"]["totalSessions"] == after["writeManager"]["activeSessions"] == 2
        assert rows_after["messages_inserted"] - rows_before["messages_inserted"] == 10

    @pytest.mark.parametrize(
        "accept",
        [
            "text/plain",
            "text/plain;version=0.0.4",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1",
        ],
    )
    def test_as_prometheus_text_it_parses(self, busy: Daemon, accept: str) -> None:
        answer = busy.get("/metrics", headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert samples["chatflow_connections",] == 2
        assert samples["chatflow_room_members", "3"] == 2
        assert samples["chatflow_messages_stored_total",] >= 10
        assert samples["chatflow_messages_pending",] == 0
        assert samples["chatflow_database_available",] == 1
        assert samples["chatflow_commit_seconds_count",] == samples["chatflow_batches_committed_total",] > 0
        for name, family in families.items():
            assert family.documentation, f"{name} has no help"
            assert family.type in ("counter", "gauge", "histogram"), f"{name} is of no type"

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html,application/json;q=0.9", ""])
    def test_everybody_else_gets_json(self, daemon: Daemon, accept: str) -> None:
        assert daemon.get("/metrics", headers={"Accept": accept}).json()["serverId"]


def test_database_metrics_have_the_references_shape(daemon: Daemon) -> None:
    answer = daemon.get("/db-metrics")
    assert answer.status == 200
    assert shape(answer.json()) == DATABASE_METRICS


class TestPage:
    def test_it_is_html_that_names_the_endpoints(self, daemon: Daemon) -> None:
        answer = daemon.get("/")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        text = answer.body.decode()
        for endpoint in ("/chat/", "/health", "/health/live", "/health/ready", "/metrics", "/db-metrics"):
            assert endpoint in text

    def test_it_loads_nothing_from_elsewhere(self, daemon: Daemon) -> None:
        answer = daemon.get("/")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        loaded = re.findall(r'(?:src|<link[^>]* href)="([^"]*)"', answer.body.decode())
        assert "/page.js" in loaded and all(re.fullmatch(r"/[\w.]+", path) for path in loaded)
        for path in loaded:
            assert daemon.get(path).status == 200

    @pytest.mark.parametrize(
        ("path", "content_type"),
        [
            ("/chatflow.js", "text/javascript; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
            ("/token.js", "text/javascript; charset=utf-8"),
            ("/page.css", "text/css; charset=utf-8"),
            ("/icon.svg", "image/svg+xml"),
        ],
    )
    def test_its_files_are_of_their_types_and_no_browser_guesses(
        self, daemon: Daemon, path: str, content_type: str
    ) -> None:
        answer = daemon.get(path)
        assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == (content_type, "nosniff")

    @pytest.mark.parametrize("path", ["/", "/chatflow.js"])
    def test_a_browser_that_has_the_newest_gets_it_not_again(self, daemon: Daemon, path: str) -> None:
        first = daemon.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = daemon.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        other = daemon.get(path, headers={"If-None-Match": '"other"'})
        assert (other.status, other.body) == (200, first.body)


class TestAnyPath:
    @pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/metrics", "/db-metrics"])
    def test_head_gives_the_headers_alone(self, daemon: Daemon, path: str) -> None:
        whole, head = daemon.get(path), daemon.get(path, method="HEAD")
        assert (head.status, head.headers["content-type"]) == (whole.status, whole.headers["content-type"])
        assert head.body == b""

    @pytest.mark.parametrize(
        "path",
        ["/nowhere", "/health/nowhere", "/metrics/", "/%00", "/%ff", "/%ff/x", "/x/%ff", "/../etc/passwd", "//x"],
    )
    def test_one_that_is_not_there_is_404_as_json(self, daemon: Daemon, path: str) -> None:
        answer = send_request(daemon.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.status == 404
        assert answer.json()["code"] == "not_found"

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    def test_another_method_is_405_and_told_which_are_right(self, daemon: Daemon, method: str) -> None:
        answer = daemon.get("/health", method=method)
        assert answer.status == 405
        assert {"GET", "HEAD"} <= set(answer.headers["allow"].split(", "))

    @pytest.mark.parametrize("host", [b"", b"..", b"a" * 300, b"chat.example.", b"[::1]:80", b"x:"], ids=repr)
    def test_no_host_name_matters(self, daemon: Daemon, host: bytes) -> None:
        data = b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
        assert send_request(daemon.port, data).status == 200

    def test_requests_on_one_connection_are_answered_in_order(self, daemon: Daemon) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
        with contextlib.closing(connection):
            statuses = []
            for path in ("/health/live", "/nowhere", "/chat/1", "/chat/99", "/health/ready"):
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
        assert statuses == [200, 404, 426, 404, 200]

    def test_the_log_stays_free_of_failures(self, daemon: Daemon) -> None:
        assert daemon.errors() == ""
        assert "Traceback" not in daemon.output() and "#critical]" not in daemon.output()
