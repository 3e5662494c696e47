"""``scripts/cluster``: a :class:`testbed.cluster.Cluster` for people."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from chatflow.errors import ChatFlowError
from testbed.cluster import Cluster
from testbed.control import ControlError, ControlSocket
from testbed.faults import KINDS, Rule
from testbed.haproxy import HOW_TO_INSTALL, HAProxy, find_haproxy
from testbed.rolling import Rolling

_LOOK_SECONDS = 0.5

_DESCRIPTION = """\
Starts a whole cluster on this machine: an emulator of SQS and SNS, PostgreSQL, instances of the daemon, and HAProxy
in front of them. Everything listens on loopback only. Ctrl-C or SIGTERM takes all of it down again.
While it runs, scripts/deploy roll --local gives its instances a new release, one after the other.

Arguments behind -- go to every daemon, for example:  scripts/cluster --instances 3 -- --max-linger-ms 200
"""

_FAULTS = (
    "let calls from the daemons to AWS fail by these rules, OPERATION:NAME=VALUE,... such as "
    "'*:drop=0.05,fail=0.05,delay_ms=500'; names are delay_ms, times and probabilities of "
    + "; ".join(f"{kind} ({meaning})" for kind, meaning in KINDS.items())
)


def main() -> int:
    """Run until a signal ends it.

    :return: the exit status.
    """
    arguments = _parse(sys.argv[1:])
    # Ctrl-C at a terminal goes to every process that it started. Those that we start inherit this mask, so they live
    # until we end them in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with _make(arguments) as cluster, tempfile.TemporaryDirectory(prefix="chatflow-releases-") as directory:
            cluster.start()
            rolling = Rolling(cluster, Path(directory))
            _tell(cluster, arguments)
            try:
                with _steered(cluster, rolling):
                    _follow(cluster, rolling)
            finally:  # SIGTERM comes as SystemExit
                print("stopping; Ctrl-C again ends everything at once", flush=True)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                cluster.stop()
    except KeyboardInterrupt:
        return 130
    except (ChatFlowError, RuntimeError, AssertionError, OSError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=4, metavar="N", help="how many daemons (4)")
    parser.add_argument("--rooms", type=int, default=20, metavar="N", help="how many rooms (20)")
    parser.add_argument("--room-queues", type=int, default=0, metavar="N", help="how many SQS queues serve them (all)")
    parser.add_argument("--port", type=int, default=8080, help="where HAProxy listens (8080); 0 for a free port")
    parser.add_argument("--no-proxy", action="store_true", help="without HAProxy: clients choose an instance")
    parser.add_argument("--data-dir", type=Path, help="keep PostgreSQL's data here (a temporary directory)")
    parser.add_argument("--faults", type=_rules, metavar="RULES", help=_FAULTS)
    parser.add_argument("--seed", type=int, default=0, help="of the faults: the same seed gives the same ones (0)")
    if "--" in words:
        at = words.index("--")
        words, options = words[:at], words[at + 1 :]
    else:
        options = []
    arguments = parser.parse_args(words)
    arguments.options = options
    return arguments


def _rules(text: str) -> list[str]:
    rules = text.split()
    for rule in rules:
        try:
            Rule.parse(rule)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return rules


def _make(arguments: argparse.Namespace) -> Cluster:
    haproxy = None
    if not arguments.no_proxy:
        if find_haproxy():
            haproxy = HAProxy(arguments.port)
        else:
            print(f"cluster: {HOW_TO_INSTALL}. Going on without it", file=sys.stderr)
    return Cluster(
        *arguments.options,
        instances=arguments.instances,
        rooms=arguments.rooms,
        room_queues=arguments.room_queues,
        faults=arguments.faults,
        seed=arguments.seed,
        haproxy=haproxy,
        data_directory=arguments.data_dir,
    )


def _tell(cluster: Cluster, arguments: argparse.Namespace) -> None:
    if cluster.haproxy is not None:
        print(f"chat:      http://localhost:{cluster.haproxy.port}/  (ws://localhost:{cluster.haproxy.port}/chat/ROOM)")
    for number, instance in enumerate(cluster.instances, 1):
        print(f"node-{number}:    http://127.0.0.1:{instance.port}/  log {instance.directory}/stdout")
    print(f"database:  {cluster.database_url}")
    print(f"AWS:       {cluster.emulator.url}")
    if arguments.faults is not None:
        print(f"faults:    {cluster.faults.url}/_faults")
    urls = " ".join(f"--url {url}" for url in cluster.urls)
    print(f"load it:   twistd -n chatflow-load {urls} --check-database '{cluster.database_url}'", flush=True)


@contextlib.contextmanager
def _steered(cluster: Cluster, rolling: Rolling) -> Iterator[None]:
    """Within the block ``scripts/deploy --local`` finds it, by the port that people know."""
    port = cluster.haproxy.port if cluster.haproxy is not None else cluster.instances[0].port
    try:
        control = ControlSocket(port, rolling.answer)
    except ControlError as error:
        print(f"cluster: scripts/deploy cannot steer it: {error}", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        control.close()


def _follow(cluster: Cluster, rolling: Rolling) -> None:
    """Say which instances end by themselves, until a signal."""
    ended: set[int] = set()
    while signal.sigtimedwait({signal.SIGINT}, _LOOK_SECONDS) is None:
        for instance in cluster.instances:
            if not instance.runs and not rolling.was_told_to_stop(instance) and instance.process.pid not in ended:
                ended.add(instance.process.pid)
                status, said = instance.process.returncode, instance.errors().strip()[-500:]
                print(f"{cluster.name_of(instance)} ended with status {status}: {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
