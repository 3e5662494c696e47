"""The daemon on ``ssl:``: WebSocket and HTTP over TLS 1.2 or newer, and a certificate that is replaced meanwhile."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from testbed.client import ChatClient
from testbed.daemon import Daemon, run_twistd, running_daemon
from testbed.waiting import eventually
from tests.support.certificates import self_signed

pytest.importorskip("OpenSSL", reason="ssl: needs twisted[tls]")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"), "first")


@pytest.fixture(scope="module")
def daemon(module_database_url: str, files: tuple[Path, Path]) -> Iterator[Daemon]:
    """Without a file of settings: there is something to read again all the same."""
    key, certificate = files
    listen = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    with running_daemon("--listen", listen, database=module_database_url) as daemon:
        yield daemon


def context(certificate: Path | None = None) -> ssl.SSLContext:
    """Of a client that trusts this certificate, or any."""
    made = ssl.create_default_context(cafile=certificate)
    if certificate is None:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def port(daemon: Daemon) -> int:
    """Where it speaks TLS: the second of its ports."""
    return int(re.findall(r"listening on .*port=(\d+)", daemon.output())[1])


def shown(daemon: Daemon) -> bytes | None:
    """The certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port(daemon)), 10) as plain,
        context().wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        return encrypted.getpeercert(binary_form=True)


def chat(daemon: Daemon, trusted: ssl.SSLContext, **options: object) -> ChatClient:
    return ChatClient(f"wss://localhost:{port(daemon)}/chat/1", ssl=trusted, **options)


def replace(files: tuple[Path, Path], key: bytes, certificate: bytes) -> None:
    files[0].write_bytes(key)
    files[1].write_bytes(certificate)


def test_members_talk_over_wss_a_page_of_the_same_host_among_them(daemon: Daemon, files: tuple[Path, Path]) -> None:
    trusted = context(files[1])
    with chat(daemon, trusted) as one, chat(daemon, trusted, origin=f"https://localhost:{port(daemon)}") as other:
        one.talk(["\N{PARTY POPPER}" * 500] * 200)
        heard = [other.receive_kind("broadcast")["seq"] for _ in range(200)]
        assert heard == list(range(heard[0], heard[0] + 200))
    with urlopen(f"https://localhost:{port(daemon)}/health/ready", context=trusted, timeout=10) as answer:
        assert answer.status == 200
    assert f"the page is https://127.0.0.1:{port(daemon)}/" in daemon.output()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")  # that is the point
def test_nothing_older_than_tls_1_2_is_spoken(daemon: Daemon) -> None:
    old = context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port(daemon)), 10) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)
    new = context()
    new.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port(daemon)), 10) as plain, new.wrap_socket(plain) as encrypted:
        assert encrypted.version() == "TLSv1.2"


def test_who_speaks_no_tls_is_not_served_and_harms_nobody(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", port(daemon)), 10) as plain:
        plain.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with plain.makefile("rb") as answer:
            assert b"HTTP" not in answer.read()
    assert shown(daemon)


def test_who_is_shut_out_is_so_before_anything_is_encrypted(daemon: Daemon) -> None:
    def stranger() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port(daemon)), 10, ("127.0.0.66", 0))

    def shut_out(connections: int = 100) -> float:
        before = daemon.counter('chatflow_limited_total{reason="accept_rate"}')
        for _ in range(connections):
            with contextlib.suppress(ConnectionError):
                stranger().close()
        return daemon.counter('chatflow_limited_total{reason="accept_rate"}') - before

    eventually(shut_out, "nobody is shut out")
    with contextlib.suppress(ConnectionError), stranger() as plain:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context().wrap_socket(plain)
        assert shown(daemon), "others do not notice"
    assert "Traceback" not in daemon.output()


def test_sighup_shows_new_connections_a_new_certificate_and_a_broken_one_changes_nothing(
    daemon: Daemon, files: tuple[Path, Path], tmp_path: Path
) -> None:
    first = shown(daemon)
    new_key, new_certificate = (file.read_bytes() for file in self_signed(tmp_path, "second"))
    old_key = files[0].read_bytes()
    with chat(daemon, context(files[1])) as old:

        def reload(count: int, line: str) -> None:
            daemon.send_signal(signal.SIGHUP)
            eventually(lambda: daemon.output().count(line) == count, line)

        reload(1, "reload: nothing has changed")
        replace(files, old_key, new_certificate)
        reload(1, "stays as it was: Certificate public and private keys do not match")
        replace(files, b"no key", new_certificate)
        reload(1, "stays as it was: privateKey and certKey must name PEM files")
        files[0].unlink()
        reload(1, f"stays as it was: {files[0]}: No such file or directory")
        assert shown(daemon) == first
        replace(files, new_key, new_certificate)
        reload(1, "the certificate of O=second,CN=localhost, valid until ")
        assert shown(daemon) not in (None, first)
        with chat(daemon, context(files[1])) as new:
            new.talk(["from the new one"])
            assert old.receive_kind("broadcast")["message"] == "from the new one"
    assert "Traceback" not in daemon.output()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("privateKey=none.pem:certKey=none.pem", "none.pem: No such file or directory; choose another with --listen"),
        ("privateKey=/dev/null:certKey=/dev/null", "must name PEM files of a key without a passphrase"),
    ],
)
def test_a_certificate_that_is_of_no_use_ends_the_start_in_one_line(
    module_database_url: str, tmp_path: Path, broken: str, said: str
) -> None:
    listen = ("--listen", f"ssl:0:interface=127.0.0.1:{broken}")
    ended = run_twistd("-n", "chatflow", "--database", module_database_url, *listen, directory=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert said in line
