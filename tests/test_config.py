"""The daemon's own options. What every table does is in ``test_options.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.config import TABLE, Config, Origin, default_server_id
from chatflow.endpoints import Endpoint
from chatflow.errors import ConfigError
from chatflow.identity_options import TokenAddress
from chatflow.options import load
from chatflow.options.manual import as_help, as_page
from chatflow.options.table import FILE

_PAGE = Path(__file__).parents[1] / "docs" / "configuration.rst"


def config(environ: Mapping[str, str] | None = None, **options: str | list[str]) -> Config:
    argv = {name.replace("_", "-"): [value] if isinstance(value, str) else value for name, value in options.items()}
    return Config.from_settings(load(TABLE, argv, environ or {}, Path.read_text))  # type: ignore[arg-type]


def refusal(environ: Mapping[str, str] | None = None, **options: str | list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        config(environ, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestConfig:
    def test_the_defaults_agree_with_each_other_and_are_those_that_are_promised(self) -> None:
        promised: dict[str, Any] = {
            "listen": ("8080",),
            "allowed_origins": (),
            "rooms": 20,
            "broker": "embedded",
            "database": "embedded",
            "data_dir": Path("chatflow-data"),
            "batch_size": 1000,
            "linger_ms": 4,
            "max_frame_bytes": 16_384,
            "max_connections": 10_000,
            "ping_interval_seconds": 20,
            "drain_seconds": 30,
            "retention_days": None,
            "partitions_ahead_days": 7,
            "max_pending_messages": 20_000,
            "max_pending_per_connection": 500,
            "max_client_buffer_bytes": 4_194_304,
            "database_connections": 4,
        }
        defaults = attrs.asdict(config())
        assert {name: defaults[name] for name in promised} == promised

    def test_every_default_is_a_value_that_could_be_given(self) -> None:
        for option in TABLE.own_options:
            value = option.default_value()
            if value in ("", ()):
                continue  # nothing is what nobody can give
            for each in value if option.repeatable else (value,):
                assert option.kind.parse(option.kind.show(each)) == each, option.name

    def test_every_option_of_the_table_is_a_field_and_every_field_an_option(self) -> None:
        fields = {field.name.replace("_", "-") for field in attrs.fields(Config)}
        assert fields == {option.name for option in TABLE.own_options if FILE in option.sources}

    def test_no_option_would_be_taken_for_one_of_a_sibling(self) -> None:
        assert all(TABLE.owns_variable(TABLE.variable(option)) for option in TABLE.options)

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            config().rooms = 3  # type: ignore[misc]

    def test_its_repr_has_no_password(self) -> None:
        assert "hunter2" not in repr(config(database="postgresql://ann:hunter2@h/db?sslpassword=hunter2"))

    @pytest.mark.parametrize(
        ("name", "least", "most"),
        [
            ("rooms", "1", "10000"),
            ("batch-size", "1", "10000"),
            ("max-frame-bytes", "1024", "1048576"),
            ("retention-days", "0", "36500"),
            ("drain-seconds", "0", "3600"),
            ("ping-interval-seconds", "0", "3600"),
        ],
    )
    def test_numbers_are_accepted_up_to_their_limits_and_refused_beyond(self, name: str, least: str, most: str) -> None:
        for value in (least, most):
            assert config(None, **{name: value})
        for wrong in (str(int(least) - 1), str(int(most) + 1), "", "many"):
            assert refusal(None, **{name: wrong}).startswith(f"{name} = ")

    @pytest.mark.parametrize("text", ["", "a b", "ä", "x" * 21, "a.b", "a/b", "a\n"])
    def test_server_ids_that_are_refused(self, text: str) -> None:
        assert "1 to 20 letters, digits, _ or -" in refusal(server_id=text)


class TestCrossChecks:
    def test_there_is_something_to_listen_on(self) -> None:
        line = refusal({"CHATFLOW_LISTEN": ""})
        assert line == "listen (environment variable CHATFLOW_LISTEN): must be at least one endpoint"

    def test_each_endpoint_is_listened_on_once(self) -> None:
        line = refusal({"CHATFLOW_LISTEN": "8080, tcp:8081, 8080"})
        assert line == "listen (environment variable CHATFLOW_LISTEN): 8080 is named twice, name each endpoint once"

    @pytest.mark.parametrize(
        ("low", "high", "value", "limit"),
        [
            ("batch-size", "max-pending-messages", "1001", "1000"),
            ("max-pending-per-connection", "max-pending-messages", "2000", "1999"),
            ("max-frame-bytes", "max-client-buffer-bytes", "4096", "4095"),
        ],
    )
    def test_one_limit_cannot_exceed_another(self, low: str, high: str, value: str, limit: str) -> None:
        line = refusal({f"CHATFLOW_{high.upper().replace('-', '_')}": limit}, **{low: value})
        assert line.startswith(
            f"{low} = {value} (command line): must be at most {high} = {limit} (environment variable "
        )
        assert config(None, **{low: limit, high: limit})

    def test_stopping_lasts_as_long_as_a_receive_under_way(self) -> None:
        many: dict[str, Any] = {"broker": "sqs", "database": "postgresql://db/chat"}
        assert config(**many).long_poll_seconds == 20
        line = refusal({"CHATFLOW_DRAIN_SECONDS": "29"}, **many)
        assert line == (
            "drain-seconds = 29 (environment variable CHATFLOW_DRAIN_SECONDS): must be at least 10 more than "
            "long-poll-seconds = 20 (default)"
        )
        assert config(drain_seconds="12", long_poll_seconds="2", **many)
        assert config(drain_seconds="0"), "the embedded queue has no receives"

    def test_each_queue_has_a_thread_so_they_cannot_be_too_many(self) -> None:
        many: dict[str, Any] = {"broker": "sqs", "database": "postgresql://db/chat"}
        line = refusal(rooms="10000", **many)
        assert line == (
            "room-queues = 0 (default): with rooms = 10000 (command line) there would be 10000 queues, each with a "
            "thread that polls it: must be 1 to 500"
        )
        assert config(rooms="10000", room_queues="500", **many)
        assert config(rooms="500", room_queues="10000", **many)
        assert config(rooms="10000"), "the embedded queue has no threads"


class TestDefaultServerId:
    @pytest.mark.parametrize(
        ("host", "server_id"),
        [
            ("chat1", "chat1"),
            ("chat1.example.com", "chat1"),
            ("ip-10-0-1-23.ec2.internal", "ip-10-0-1-23"),
            ("chatflow-7d9f8b6c5d-x2x4z", "low-7d9f8b6c5d-x2x4z"),
            ("büro pc", "b-ro-pc"),
            ("", "server"),
            ("...", "server"),
        ],
    )
    def test_is_made_of_the_host_name(self, host: str, server_id: str) -> None:
        assert default_server_id(host) == server_id

    @given(st.text())
    def test_is_always_a_server_id(self, host: str) -> None:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,20}", default_server_id(host))


class TestListen:
    @pytest.mark.parametrize(
        "text",
        [
            "0",
            "8080",
            "localhost:8080",
            "tcp:0",
            "tcp:65535",
            "tcp:8080:interface=127.0.0.1",
            r"tcp6:8080:interface=\:\:1",
            "unix:/run/chatflow:mode=660",
            "ssl:8443:privateKey=/nonexistent/key.pem",
        ],
    )
    def test_endpoints_are_a_port_or_what_twisted_takes(self, text: str) -> None:
        assert config(listen=text).listen == (text,)

    def test_of_proxy_protocol_it_is_said_who_may_speak_it(self) -> None:
        listen = "haproxy:tcp:8080"
        assert config(listen=listen, trusted_proxy="10.0.0.0/8").trusted_proxy == ("10.0.0.0/8",)
        assert refusal(listen=listen).endswith("who may say there where a client is? Give --trusted-proxy")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "65536",
            "８０",
            "127.0.0.1:8080",
            "localhost:",
            "tcp",
            "tcp:",
            "tcp:http",
            "tcp:65536",
            "tcp:port=65536",
            "tcp6:70000",
            "tcp:-1",
            "tcp:８０",
            "tcp:1:colour=red",
            "x:1",
        ],
    )
    def test_what_is_no_endpoint_is_refused_at_once(self, text: str) -> None:
        assert refusal(listen=text).startswith(f"listen = '{text}' (command line): must be a port such as 8080")

    @given(st.text())
    def test_parsing_fails_with_nothing_but_value_error(self, text: str) -> None:
        for kind in (Endpoint(), Origin()):
            try:
                kind.parse(text)
            except ValueError:
                continue


class TestAllowedOrigins:
    @pytest.mark.parametrize(
        "text",
        [
            *("*", "null", "https://chat.example.com", "http://localhost:3000", "http://[::1]:8080", "http://10.0.0.1"),
            *("capacitor://localhost", "tauri://localhost", "ionic://localhost", "chrome-extension://abcdefghijklmnop"),
        ],
    )
    def test_an_origin_is_taken_as_browsers_send_it(self, text: str) -> None:
        assert config(allowed_origins=text).allowed_origins == (text,)

    @pytest.mark.parametrize(
        ("text", "origin"),
        [
            ("HTTPS://Chat.Example.COM", "https://chat.example.com"),
            ("https://chat.example.com:443", "https://chat.example.com"),
            ("https://chat.example.com.", "https://chat.example.com"),
            ("https://Bücher.example", "https://xn--bcher-kva.example"),
            ("http://[0:0::1]:80", "http://[::1]"),
        ],
    )
    def test_however_one_is_written_it_is_kept_as_browsers_send_it(self, text: str, origin: str) -> None:
        assert config(allowed_origins=text).allowed_origins == (origin,)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "chat.example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "ws://a",
            "https://a:99999",
            "https://a:x",
            "https://a b",
            "https://*.example.com",
            "https://[::1",
        ],
    )
    def test_what_is_no_origin(self, text: str) -> None:
        assert "must be null, * or an origin" in refusal(allowed_origins=text)

    def test_several_values_in_one_variable_are_separated_by_commas(self) -> None:
        assert config({"CHATFLOW_ALLOWED_ORIGINS": "https://a, https://b"}).allowed_origins == (
            "https://a",
            "https://b",
        )


class TestPageTokenUrl:
    @pytest.mark.parametrize(
        "text",
        ["/login/token", "/t?for=chat", "https://login.example.org/t", "http://localhost:81/", "http://[::1]:81/t?a=b"],
    )
    def test_a_path_and_a_url_that_nobody_can_answer_on_the_way_are_taken_as_they_are(self, text: str) -> None:
        assert TokenAddress().parse(text) == text

    @pytest.mark.parametrize(
        "text",
        [
            *("", "login/token", "//elsewhere.example.org/t", "/\\elsewhere.example.org", "/a b", "/a\n", "/ä"),
            *("http://login.example.org/t", "https:///t", "https:/t", "javascript:alert(1)", "ftp://localhost/"),
            *(
                "https://u:p@login.example.org/t",
                "https://a;script-src *.b/t",
                "https://a'b/t",
                "https://bücher.example/",
            ),
        ],
    )
    def test_all_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            TokenAddress().parse(text)

    def test_it_is_of_no_use_to_whom_no_token_is_asked(self) -> None:
        told = refusal(page_token_url="/login/token")
        assert "page-token-url (command line): is of no use with auth = none" in told


class TestPage:
    def test_it_is_up_to_date(self) -> None:
        page = as_page(TABLE, "Configuration of the daemon")
        assert _PAGE.read_text(encoding="utf-8") == page, "run: python -m chatflow.config > docs/configuration.rst"

    def test_it_is_the_same_on_every_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("socket.gethostname", lambda: "some-host")
        assert "some-host" not in as_page(TABLE, "x") + as_help(TABLE, 80)
