"""``wss://``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from pytest_twisted import ensureDeferred

from benchmarks.null_server import NullServer
from chatflow.load.run import LoadRun, Outcome
from chatflow.load.wall_clock import system_clock
from chatflow.load.worker import LoadWorker
from tests.load.running import SETTINGS, Listening, faults, reactor
from tests.support.certificates import self_signed


class ListeningOverTls(Listening):
    def __init__(self, server: NullServer, key: Path, certificate: Path) -> None:
        super().__init__(server)
        self._files = str(key), str(certificate)

    async def __aenter__(self) -> str:
        from twisted.internet.ssl import DefaultOpenSSLContextFactory

        context = DefaultOpenSSLContextFactory(*self._files)
        self._port: Any = reactor.listenSSL(0, self._server, context, interface="127.0.0.1")
        return f"wss://localhost:{self._port.getHost().port}/chat"


async def _run_over_tls(key: Path, certificate: Path) -> Outcome:
    async with ListeningOverTls(NullServer(reactor), key, certificate) as url:
        settings = attrs.evolve(SETTINGS, urls=(url,), timeout_seconds=10.0)
        clock = system_clock()
        return await LoadRun(settings, [LoadWorker(reactor, settings, 0, clock)], clock, None).run()


@ensureDeferred
async def test_a_run_over_tls_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("OpenSSL", reason="wss:// needs twisted[tls]")
    key, certificate = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    outcome = await _run_over_tls(key, certificate)
    assert (outcome.verdict, outcome.causes, faults(outcome)) == ("pass", [], {})


@ensureDeferred
async def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("OpenSSL", reason="wss:// needs twisted[tls]")
    outcome = await _run_over_tls(*self_signed(tmp_path))
    assert outcome.phases == []
    assert "certificate verify failed" in outcome.causes[0]


@ensureDeferred
async def test_without_the_packages_for_tls_one_line_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twisted.internet.ssl", None)
    settings = attrs.evolve(SETTINGS, urls=("wss://localhost:1/chat",))
    clock = system_clock()
    outcome = await LoadRun(settings, [LoadWorker(reactor, settings, 0, clock)], clock, None).run()
    (cause,) = outcome.causes
    assert "wss:// needs more packages, pip install 'twisted[tls]'" in cause
