"""``--auth jwt`` on a running daemon: who gets in, as whom, into which rooms, for how long."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from testbed.client import ChatClient, Frame, RawClient, kind
from testbed.daemon import Daemon, running_daemon
from testbed.http_client import Answer, request
from testbed.tokens import AUDIENCE, SECRET, Issuer, claims, encode, hs256, user_token
from testbed.waiting import eventually

ADMIN_TOKEN = "the-token-of-operators-in-tests"
TOKEN_URL = "https://login.example.org:8443/token?for=chat&as=%22it%22'"
V2 = Subprotocol("chatflow.v2")


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def daemon(issuer: Issuer, module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Knows a secret, a set of public keys and an operator; its log is as chatty as it can be."""
    directory = tmp_path_factory.mktemp("keys")
    (directory / "secret").write_text(f"{SECRET}\n")
    (directory / "admin").write_text(f"{ADMIN_TOKEN}\n{ADMIN_TOKEN[::-1]}\n")
    (directory / "jwks.json").write_bytes(issuer.document())
    options = ["--auth", "jwt", "--jwt-audience", AUDIENCE, "--jwt-leeway-seconds", "0", "--log-level", "debug"]
    options += ["--jwt-key-file", str(directory / "secret"), "--jwt-jwks", str(directory / "jwks.json")]
    options += ["--admin-token-file", str(directory / "admin"), "--rooms", "20", "--page-token-url", TOKEN_URL]
    with running_daemon(*options, database=module_database_url) as daemon:
        yield daemon


@contextlib.contextmanager
def connected(daemon: Daemon, token: str, room: int = 1, query: str = "", *, v2: bool = False) -> Iterator[ChatClient]:
    headers = {"Authorization": f"Bearer {token}"}
    with ChatClient(
        daemon.chat_url(room) + query, additional_headers=headers, subprotocols=[V2] if v2 else None
    ) as client:
        yield client


def receive(client: ChatClient) -> Frame:
    """The next frame, of any kind."""
    frame: Frame = json.loads(client.socket.recv(20))
    return frame


def until(client: ChatClient, **having: Any) -> Frame:
    """The next frame that has these fields."""
    while True:
        frame = receive(client)
        if all(frame.get(name) == value for name, value in having.items()):
            return frame


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refusal(daemon: Daemon, **options: Any) -> Answer:
    """The answer to a handshake that is refused."""
    with RawClient(daemon.port, **options) as client:
        length = int(client.answer.headers["content-length"])
        return Answer(client.answer.status, client.answer.headers, client._peek(length))


class TestHandshake:
    def test_a_token_is_taken_from_each_of_three_places(self, daemon: Daemon, issuer: Issuer) -> None:
        for token in (user_token(), *(issuer.token(name, claims()) for name in issuer.keys)):
            with connected(daemon, token) as client:
                client.send("hello", userId="7", username="alice")
                assert client.receive_kind("broadcast")["userId"] == "7"
        with ChatClient(f"{daemon.chat_url(1)}?access_token={user_token()}") as client:
            client.send("hello", userId="7", username="alice")
            assert client.receive_kind("ack")["status"] == "SUCCESS"
        named = Subprotocol(f"chatflow.jwt.{user_token()}")
        for offered, chosen in (([named, V2], V2), ([named], named)):
            with ChatClient(daemon.chat_url(1), subprotocols=offered) as client:
                assert client.socket.subprotocol == chosen

    def test_without_one_the_answer_is_401_and_names_the_way(self, daemon: Daemon) -> None:
        answer = refusal(daemon)
        assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == 'Bearer realm="chatflow"'
        for value in ("Basic YTpi", "Bearer", "bearer ", user_token(), "Digest x"):
            assert refusal(daemon, headers={"Authorization": value}).status == 401

    def test_all_that_nobody_signed_is_answered_alike(self, daemon: Daemon, issuer: Issuer) -> None:
        head, body, signature = user_token().split(".")
        forged = [
            f"{encode({'alg': 'none', 'typ': 'JWT'})}.{body}.",
            f"{encode({'alg': 'none', 'typ': 'JWT'})}.{body}.{signature}",
            f"{head}.{encode(claims('8'))}.{signature}",
            hs256(claims(), issuer.public_pem()),
            hs256(claims(), issuer.public_pem(), kid="RS256"),
            hs256(claims(), json.dumps(issuer.public_jwks()[0])),
            issuer.token("RS256", claims(), kid="ES256"),
            Issuer().token("EdDSA", claims()),
            hs256(claims(), crit=["exp"]),
            "x",
        ]
        answers = [refusal(daemon, headers=bearer(token)).json() for token in forged]
        assert all(answer.pop("timestamp") for answer in answers)
        assert answers == [answers[0]] * len(forged)
        assert answers[0]["code"] == "invalid_token"

    def test_a_token_that_is_signed_and_not_good_is_told_why(self, daemon: Daemon) -> None:
        for wrong, code, word in (
            ({"exp": 1}, "token_expired", "expired"),
            ({"exp": None}, "invalid_token", "exp"),
            ({"nbf": 4_000_000_000}, "invalid_token", "nbf"),
            ({"iat": 4_000_000_000}, "invalid_token", "iat"),
            ({"aud": "another"}, "invalid_token", "aud"),
            ({"user_id": "100001"}, "invalid_token", "sub"),
            ({"name": "Alice Smith"}, "invalid_token", "name"),
        ):
            answer = refusal(daemon, headers=bearer(user_token(**wrong)))
            assert (answer.status, answer.json()["code"]) == (401, code)
            assert word in answer.json()["errorMessage"]

    def test_a_huge_token_is_refused(self, daemon: Daemon) -> None:
        token = user_token(more="x" * 9000)
        assert refusal(daemon, headers=bearer(token)).status == 401
        assert refusal(daemon, path=f"/chat/1?access_token={token}").status == 401
        with RawClient(daemon.port, headers=bearer(user_token(more="x" * 20_000))) as client:
            assert client.answer.status == 431

    def test_several_tokens_are_refused_even_if_they_are_the_same(self, daemon: Daemon) -> None:
        token = user_token()
        in_query, in_protocol = f"/chat/1?access_token={token}", {"Sec-WebSocket-Protocol": f"chatflow.jwt.{token}"}
        for options in (
            {"path": in_query, "headers": bearer(token)},
            {"path": f"{in_query}&access_token={token}"},
            {"path": f"/chat/1?access%5ftoken={token}", "headers": bearer(token)},
            {"headers": {**bearer(token), **in_protocol}},
            {"path": in_query, "headers": in_protocol},
            {"headers": {"Authorization": f"Bearer {token}\r\nAuthorization: Bearer {token}"}},
            {"headers": {"Sec-WebSocket-Protocol": f"chatflow.jwt.{token}, chatflow.jwt.{token}"}},
        ):
            answer = refusal(daemon, **options)
            assert (answer.status, answer.json()["code"]) == (400, "invalid_token")

    def test_a_room_that_the_token_does_not_name_is_forbidden(self, daemon: Daemon) -> None:
        token = user_token(rooms={"read": [1, 2], "write": [1]})
        answer = refusal(daemon, path="/chat/3", headers=bearer(token))
        assert (answer.status, answer.json()["code"]) == (403, "forbidden")
        with connected(daemon, token, 2) as client:
            error = client_error(client, "hello", userId="7", username="alice")
            assert error["code"] == "read_only"

    def test_presence_shows_whom_the_token_names_and_nobody_else(self, daemon: Daemon) -> None:
        with connected(daemon, user_token("9", "nina"), 5, "?presence=1", v2=True) as client:
            assert until(client, type="presence")["users"] == [{"userId": "9", "username": "nina", "connections": 1}]
        for query in ("userId=8&username=nina", "userId=9&username=nin0"):
            answer = refusal(daemon, path=f"/chat/5?{query}", headers=bearer(user_token("9", "nina")))
            assert (answer.status, answer.json()["code"]) == (403, "wrong_user")


def client_error(client: ChatClient, text: str, **fields: Any) -> Frame:
    client.send(text, **fields)
    return client.receive_kind("error")


class TestMessages:
    def test_one_that_names_somebody_else_is_refused(self, daemon: Daemon) -> None:
        with connected(daemon, user_token()) as client:
            for fields, field in (
                ({"userId": "8", "username": "alice"}, "userId"),
                ({"userId": 8, "username": "alice"}, "userId"),
                ({"userId": "7", "username": "mallory"}, "username"),
            ):
                error = client_error(client, "hello", **fields)
                assert (error["code"], error["field"]) == ("wrong_user", field)

    def test_who_says_it_may_be_left_out(self, daemon: Daemon) -> None:
        with connected(daemon, user_token()) as client:
            for fields in (
                {"userId": None, "username": None},
                {"userId": 7, "username": None},
                {"userId": None, "username": "alice"},
            ):
                client.send("hello", **fields)
                original = client.receive_kind("ack")["originalMessage"]
                assert (int(original["userId"]), original["username"]) == (7, "alice")
            assert client_error(client, "x", userId=None, timestamp="now")["code"] == "invalid_field"
            assert client_error(client, "x", userId=None, messageType=None)["code"] == "missing_field"

    def test_a_token_without_a_name_leaves_the_name_to_the_message(self, daemon: Daemon) -> None:
        with connected(daemon, user_token("7", None)) as client:
            client.send("hello", userId=None, username="anyname")
            assert client.receive_kind("broadcast")["username"] == "anyname"
            assert client_error(client, "hello", userId="7", username=None)["code"] == "missing_field"


class TestExpiry:
    def test_a_v2_client_is_warned_and_stays_if_it_brings_a_new_token(self, daemon: Daemon) -> None:
        with connected(daemon, user_token(seconds=4), v2=True) as client:
            welcome = receive(client)
            assert (welcome["userId"], welcome["username"]) == ("7", "alice")
            assert 0 < welcome["expiresInMs"] <= 4000
            warning = until(client, type="expiring")
            assert 0 < warning["expiresInMs"] <= 2000
            client.send_frame(json.dumps({"type": "refresh", "token": user_token(name="alicia", seconds=1000)}))
            assert 900_000 < until(client, type="refreshed")["expiresInMs"] <= 1_000_000
            client.send("hello", userId="7", username="alicia")
            assert until(client, status="SUCCESS")

    def test_one_that_does_not_is_closed_with_4401(self, daemon: Daemon) -> None:
        for v2 in (True, False):
            with connected(daemon, user_token(seconds=2), v2=v2) as client:
                assert client.wait_closed() == 4401

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            (lambda: user_token("8"), "wrong_user"),
            (lambda: user_token(exp=1), "token_expired"),
            (lambda: hs256(claims(), "x" * 40), "invalid_token"),
            (lambda: user_token(rooms={"read": [2]}), "invalid_token"),
            (lambda: "", "invalid_token"),
        ],
        ids=["another user's", "expired", "forged", "of another room", "empty"],
    )
    def test_a_refresh_that_is_not_good_is_refused_and_the_connection_lives_on(
        self, daemon: Daemon, token: Any, code: str
    ) -> None:
        with connected(daemon, user_token(), v2=True) as client:
            client.send_frame(json.dumps({"type": "refresh", "token": token()}))
            error = until(client, status="ERROR")
            assert (error["code"], error["field"]) == (code, "token")
            client.send("hello", userId="7", username="alice")
            assert until(client, status="SUCCESS")

    def test_a_client_without_the_subprotocol_has_no_such_frame(self, daemon: Daemon) -> None:
        with connected(daemon, user_token()) as client:
            client.send_frame(json.dumps({"type": "refresh", "token": user_token()}))
            assert client.receive_kind("error")["code"] == "missing_field"


class TestHttp:
    def test_history_and_presence_give_what_the_token_allows(self, daemon: Daemon) -> None:
        token = user_token("7", "alice", rooms={"read": [1, 2]})
        statuses = {
            path: request(daemon.port, "GET", path, bearer(token)).status
            for path in (
                "/api/rooms/1/messages",
                "/api/rooms/2/presence",
                "/api/rooms/3/messages",
                "/api/rooms/3/presence",
                "/api/users/7/messages",
                "/api/users/7/rooms",
                "/api/users/8/messages",
                "/api/users/8/rooms",
                "/api/rooms",
            )
        }
        assert list(statuses.values()) == [200, 200, 403, 403, 200, 200, 403, 403, 200]
        rooms = request(daemon.port, "GET", "/api/rooms", bearer(token)).json()["rooms"]
        assert [room["roomId"] for room in rooms] == ["1", "2"]
        window = "testStartTime=2026-01-01T00:00:00Z&testEndTime=2026-01-01T00:01:00Z"
        for room, status in (("&roomId=1", 200), ("&roomId=3", 403), ("", 403)):
            answer = request(daemon.port, "GET", f"/api/metrics/throughput?{window}{room}", bearer(token))
            assert answer.status == status
        assert request(daemon.port, "GET", "/api/metrics/stats", bearer(token)).status in (401, 403)

    def test_a_banned_user_may_not_read_what_is_said_and_others_may(self, daemon: Daemon) -> None:
        token = user_token("77", "mallory")
        admin = {**bearer(ADMIN_TOKEN), "Content-Type": "application/json"}

        def statuses(*paths: str) -> list[int]:
            return [request(daemon.port, "GET", path, bearer(token)).status for path in paths]

        own = ("/api/rooms", "/api/users/77/messages", "/api/users/77/rooms")
        for body, elsewhere in ((b'{"userId": 77, "roomId": 5}', 200), (b'{"userId": 77}', 403)):
            assert request(daemon.port, "POST", "/api/moderation/ban", admin, body).status == 200
            assert statuses("/api/rooms/5/messages", "/api/rooms/5/presence", "/api/%72ooms/5/messages") == [403] * 3
            assert statuses("/api/rooms/6/messages", *own) == [elsewhere] * 4
            answer = request(daemon.port, "GET", "/api/rooms/5/messages", bearer(token))
            assert answer.json()["code"] == "banned"
            assert request(daemon.port, "GET", "/api/rooms/5/messages", bearer(user_token())).status == 200
            query = "?userId=77" + ("&roomId=5" if elsewhere == 200 else "")
            assert request(daemon.port, "DELETE", f"/api/moderation/ban{query}", admin).status == 200
            assert statuses("/api/rooms/5/messages", *own) == [200] * 4

    def test_a_token_in_the_query_is_as_good_and_never_an_unknown_parameter(self, daemon: Daemon) -> None:
        answer = daemon.get(f"/api/rooms/1/messages?limit=1&access_token={user_token()}")
        assert answer.status == 200
        assert "access_token" not in answer.body.decode() + answer.headers.get("link", "")
        assert daemon.get(f"/api/rooms?access_token={user_token()}", headers=bearer(user_token())).status == 400

    @pytest.mark.parametrize(
        "path", ["/api/rooms", "/api/rooms/1/messages", "/api/users/7/rooms", "/api/metrics/stats"]
    )
    def test_without_a_token_nothing_is_told(self, daemon: Daemon, path: str) -> None:
        for headers in ({}, bearer("x"), {"Authorization": "Basic YTpi"}):
            answer = daemon.get(path, headers=headers)
            assert (answer.status, "www-authenticate" in answer.headers) == (401, True)

    def test_pages_and_health_are_for_everybody(self, daemon: Daemon) -> None:
        for path in ("/", "/chatflow.js", "/health", "/health/live", "/health/ready", "/api/openapi.json"):
            assert daemon.get(path).status == 200

    def test_the_page_may_ask_for_tokens_where_it_is_told_to_and_nowhere_else(self, daemon: Daemon) -> None:
        page = daemon.get("/")
        policy = page.headers["content-security-policy"]
        assert "; connect-src 'self' ws: wss: https://login.example.org:8443;" in policy
        assert f'<meta name="token-url" content="{html.escape(TOKEN_URL)}">' in page.body.decode()
        assert "login" not in daemon.get("/dashboard", headers=bearer(ADMIN_TOKEN)).headers["content-security-policy"]

    def test_no_token_is_made_here(self, daemon: Daemon) -> None:
        for method in ("GET", "POST"):
            answer = daemon.get("/api/token", method=method)
            assert answer.status == 404
            assert "chatflow-admin token" in answer.json()["errorMessage"]

    def test_the_document_of_the_api_says_what_is_needed(self, daemon: Daemon) -> None:
        document = daemon.get("/api/openapi.json").json()
        assert document["components"]["securitySchemes"]["user"]["bearerFormat"] == "JWT"
        operation = document["paths"]["/api/rooms"]["get"]
        assert {"user": []} in operation["security"]
        assert {"401", "403"} <= operation["responses"].keys()


OPERATORS = [
    "/metrics",
    "/db-metrics",
    "/queue/1",
    "/queue/all",
    "/dashboard",
    "/dashboard/page.js",
    "/api/metrics/stats",
]


def test_sighup_reads_keys_and_secrets_again_and_who_is_connected_stays(daemon: Daemon, issuer: Issuer) -> None:
    arguments = daemon.processes()[0].cmdline()
    jwks, secret = (Path(arguments[arguments.index(name) + 1]) for name in ("--jwt-jwks", "--jwt-key-file"))
    token, other = issuer.token("EdDSA", claims()), hs256(claims(), "another-secret-which-is-long-enough")

    def reload(line: str) -> None:
        daemon.send_signal(signal.SIGHUP)
        eventually(lambda: line in daemon.output(), line)

    def good() -> list[bool]:
        """Of a key that is not known it may be said that it is being looked for."""
        return [daemon.get("/api/rooms", headers=bearer(one)).status == 200 for one in (token, user_token(), other)]

    with connected(daemon, token) as client:
        assert good() == [True, True, False]
        jwks.write_bytes(b"<html>")
        reload("reload: JWKS stays as it was: it is not a JSON Web Key Set")
        jwks.write_bytes(issuer.document("RS256", "ES256"))
        secret.write_text("another-secret-which-is-long-enough")
        reload("reload: JWKS: 2 keys, 0 new, 1 gone")
        assert "reload: jwt-key = *** (file" in daemon.output()
        assert good() == [False, False, True]
        jwks.write_bytes(issuer.document())
        secret.write_text(f"{SECRET}\n")
        reload("reload: JWKS: 3 keys, 1 new, 0 gone")
        assert good() == [True, True, False]
        client.send("still here", userId="7", username="alice")
        assert kind(receive(client)) in ("ack", "broadcast")


class TestOperators:
    @pytest.mark.parametrize("path", OPERATORS)
    def test_they_alone_see_what_is_theirs(self, daemon: Daemon, path: str) -> None:
        for headers in ({}, bearer("x"), bearer(ADMIN_TOKEN + "x"), bearer(ADMIN_TOKEN[:-1])):
            assert daemon.get(path, headers=headers).status == 401
        assert daemon.get(path, headers=bearer(user_token())).status in (401, 403)
        basic = f"Basic {encode_basic('anybody', ADMIN_TOKEN)}"
        for headers in (bearer(ADMIN_TOKEN), bearer(ADMIN_TOKEN[::-1]), {"Authorization": basic}):
            assert daemon.get(path, headers=headers).status == 200

    def test_no_other_way_to_write_the_path_leads_around(self, daemon: Daemon) -> None:
        for path in (
            "//metrics",
            "/%6Detrics",
            "/metrics/",
            "/queue%2Fall",
            "/./metrics",
            "/queue/./all",
            "/metrics;x",
        ):
            answer = daemon.get(path, headers={"Accept": "text/plain"})
            assert answer.status in (401, 404, 308), path
            assert b"chatflow_" not in answer.body

    def test_a_post_needs_them_and_no_page_of_another_host_can_send_it(self, daemon: Daemon) -> None:
        path = "/api/metrics/refresh-views"
        assert daemon.get(path, method="POST").status == 401
        assert daemon.get(path, method="POST", headers=bearer(user_token())).status in (401, 403)
        foreign = {**bearer(ADMIN_TOKEN), "Origin": "https://evil.example"}
        assert daemon.get(path, method="POST", headers=foreign).status == 403
        own = {**bearer(ADMIN_TOKEN), "Origin": f"http://127.0.0.1:{daemon.port}"}
        assert daemon.get(path, method="POST", headers=own).status == 200

    def test_they_see_all_rooms_and_users(self, daemon: Daemon) -> None:
        for path in ("/api/rooms", "/api/rooms/3/messages", "/api/users/8/messages"):
            assert daemon.get(path, headers=bearer(ADMIN_TOKEN)).status == 200


def encode_basic(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def admin(module_database_url: str) -> Iterator[tuple[Daemon, int]]:
    """A daemon that asks nobody who they are, and its operators' port."""
    with running_daemon(
        "--admin-listen", "tcp:0:interface=127.0.0.1", "--rooms", "2", database=module_database_url
    ) as daemon:
        yield daemon, daemon.admin_port


class TestPorts:
    """What is for operators, with a port of their own and without."""

    @pytest.mark.parametrize("path", OPERATORS)
    def test_it_is_found_there_and_nowhere_else(self, admin: tuple[Daemon, int], path: str) -> None:
        daemon, port = admin
        assert daemon.get(path).status == 404
        assert request(port, "GET", path).status == 200

    def test_nobody_chats_there_and_both_tell_of_their_health(self, admin: tuple[Daemon, int]) -> None:
        daemon, port = admin
        assert request(port, "GET", "/chat/1").status == 404
        assert request(port, "GET", "/api/rooms").status == 404
        for each in (daemon.port, port):
            assert request(each, "GET", "/health/ready").status == 200
        assert daemon.get("/api/rooms").status == 200

    def test_with_auth_and_nothing_else_it_is_closed(self, module_database_url: str, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(SECRET)
        options = ("--auth", "jwt", "--jwt-key-file", str(tmp_path / "secret"))
        with running_daemon(*options, database=module_database_url) as daemon:
            for path in OPERATORS:
                assert daemon.get(path).status in (401, 403)
            answer = daemon.get("/metrics")
            assert (answer.status, answer.json()["code"]) == (403, "forbidden")
            assert "--admin-token-file" in answer.json()["errorMessage"]
            with pytest.raises(InvalidStatus), ChatClient(daemon.chat_url(1)):
                pass


def test_no_secret_and_no_token_is_written_anywhere(daemon: Daemon) -> None:
    """Of all that the tests above sent: the log is at its most talkative."""
    with ChatClient(f"{daemon.chat_url(1)}?access_token={user_token()}&last=1"):
        pass
    daemon.get(f"/api/rooms?access_token={user_token(name='bob2')}x")
    daemon.get("/metrics", headers=bearer(ADMIN_TOKEN))
    written = daemon.output() + daemon.errors()
    assert "in room 1 ended" in written
    for secret in (SECRET, ADMIN_TOKEN, ADMIN_TOKEN[::-1], "eyJ", encode(claims())[:20]):
        assert secret not in written
    arguments = " ".join(daemon.processes()[0].cmdline())
    assert SECRET not in arguments
    assert ADMIN_TOKEN not in arguments
