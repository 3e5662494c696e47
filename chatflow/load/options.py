"""Every setting of the load client: the table, and the values that the rest of it is handed.

``python -m chatflow.load.options`` prints ``docs/load-configuration.rst``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

import attrs

from chatflow.errors import ConfigError
from chatflow.load.scenario import Settings
from chatflow.options import Flag, Integer, Number, Option, Setting, Table, Text, Url, check_order, mask_password
from chatflow.options.kinds import Plain, Secrets
from chatflow.options.table import ENVIRONMENT, FILE

_HIGHEST_WEIGHT = 100


@attrs.frozen
class Mix(Plain):
    """Weights of TEXT, JOIN and LEAVE."""

    placeholder: str = "TEXT:JOIN:LEAVE"
    allowed: str = f"three whole numbers from 0 to {_HIGHEST_WEIGHT} such as 90:5:5, not all 0"

    def parse(self, text: str) -> tuple[int, ...]:
        if not re.fullmatch(r"[0-9]{1,3}:[0-9]{1,3}:[0-9]{1,3}", text):
            raise ValueError
        weights = tuple(int(word) for word in text.split(":"))
        if sum(weights) == 0 or max(weights) > _HIGHEST_WEIGHT:
            raise ValueError
        return weights

    def show(self, value: tuple[int, ...]) -> str:
        return ":".join(map(str, value))


_SERVERS = "Servers"
_LOAD = "What is sent"
_PROOF = "Proof and results"

TABLE = Table(
    name="chatflow-load",
    siblings=("chatflow", "chatflow-test"),  # the daemon, and ChatFlow's own tests
    summary=(
        "The load client does what thousands of users would do, and proves what came of it: every connection "
        "received each message of its room exactly once, in order and without a hole; each acknowledged message "
        "was broadcast under the id of its acknowledgement; and, with --check-database, is stored once. The exit "
        "status is 0 only if all of this holds."
    ),
    examples=(
        ("500,000 messages to a server on this machine", "twistd -n chatflow-load"),
        (
            "The same, with the rows in its embedded database looked up",
            "CHATFLOW_LOAD_CHECK_DATABASE=$(cat chatflow-data/database.url) twistd -n chatflow-load",
        ),
        (
            "Latencies at a fixed rate, kept in files",
            "twistd -n chatflow-load --rate 3465 --messages 100000 --output results",
        ),
        (
            "Fan-out: a thousand listeners in ten rooms, one sender in each",
            "twistd -n chatflow-load --connections 1000 --rooms 10 --even-rooms --senders 10 --messages 50000",
        ),
    ),
    own_options=(
        Option(
            name="url",
            kind=Url(schemes=("ws", "wss"), example="ws://127.0.0.1:8080/chat"),
            default=("ws://127.0.0.1:8080/chat",),
            repeatable=True,
            group=_SERVERS,
            help="Where to connect; the room is appended to it. Of several, connections take turns. wss:// needs "
            "pyOpenSSL and service_identity, and trusts the authorities of OpenSSL, or of the file that "
            "SSL_CERT_FILE names.",
        ),
        Option(
            name="token-key",
            kind=Secrets(32, "as the server's --jwt-key-file has it"),
            default=(),
            default_text="no tokens",
            may_hold_secret=True,
            sources=frozenset({ENVIRONMENT, FILE}),
            group=_SERVERS,
            help="For a server with --auth jwt: the secret with which each connection signs a token of its own "
            "(HS256). A connection then sends messages of one user, and not of many.",
        ),
        Option(
            name="token-audience",
            kind=Text("text on one line", placeholder="NAME"),
            default="",
            default_text="none",
            group=_SERVERS,
            help="The claim aud of these tokens, if the server asks for one.",
        ),
        Option(
            name="token-issuer",
            kind=Text("text on one line", placeholder="NAME"),
            default="",
            default_text="none",
            group=_SERVERS,
            help="The claim iss of these tokens, if the server asks for one.",
        ),
        Option(
            name="connections",
            kind=Integer(1, 1_000_000),
            default=64,
            group=_LOAD,
            help="Connections of the main phase, each in one room. All are open before the first message is sent.",
        ),
        Option(
            name="senders",
            kind=Integer(0, 1_000_000),
            default=0,
            default_text="0, all",
            group=_LOAD,
            help="How many of the connections send messages; the others listen. 0 is all.",
        ),
        Option(
            name="rooms",
            kind=Integer(1, 10_000),
            default=20,
            group=_LOAD,
            help="Rooms are called 1, 2, 3 and so on. Each connection takes one of them at random.",
        ),
        Option(
            name="even-rooms",
            kind=Flag(),
            default=False,
            group=_LOAD,
            help="Connections take the rooms in turn, not at random, so that all have equally many. Those of a room "
            "are spread evenly over several --url and --processes.",
        ),
        Option(
            name="messages",
            kind=Integer(1, 1_000_000_000),
            default=500_000,
            group=_LOAD,
            help="Messages of the main phase, over all connections.",
        ),
        Option(
            name="warmup-connections",
            kind=Integer(0, 1_000_000),
            default=32,
            group=_LOAD,
            help="Connections of the warm-up, which are closed before the main phase. Their messages are proven "
            "like all others, but are not part of latencies and throughput.",
        ),
        Option(
            name="warmup-messages",
            kind=Integer(0, 1_000_000_000),
            default=32_000,
            group=_LOAD,
            help="Messages of the warm-up, before and besides --messages. 0 leaves it out.",
        ),
        Option(
            name="in-flight",
            kind=Integer(1, 100_000),
            default=50,
            group=_LOAD,
            help="How many messages of a connection may be without an answer. Further ones wait for one.",
        ),
        Option(
            name="rate",
            kind=Number(0, 10_000_000),
            default=0.0,
            default_text="0, as fast as acknowledgements allow",
            group=_LOAD,
            help="Messages per second over all connections. Latencies are then taken from when a message was due, "
            "however late --in-flight let it go: a server that stalls does not get away with being asked less.",
        ),
        Option(
            name="reconnect",
            kind=Number(0, 86_400, "seconds"),
            default=0.0,
            default_text="0, connections stay",
            group=_LOAD,
            help="Cut each connection at random about every so many seconds. It comes back to where it was (?since=), "
            "at the next of several --url, sends what was not acknowledged again under the same clientMessageId, and "
            "must still get every message once. The server, too, may end connections, but in order: with 1001, 1012, "
            "or without a close frame.",
        ),
        Option(
            name="mix",
            kind=Mix(),
            default=(90, 5, 5),
            group=_LOAD,
            help="How often messages are of type TEXT, JOIN and LEAVE.",
        ),
        Option(
            name="seed",
            kind=Integer(0, 1_000_000_000),
            default=lambda: secrets.randbelow(1_000_000_000),
            default_text="another one each time",
            group=_LOAD,
            help="The same seed gives the same rooms, users and texts. The summary tells it.",
        ),
        Option(
            name="processes",
            kind=Integer(1, 256),
            default=1,
            group=_LOAD,
            help="Processes that share the connections. A process uses one processor at most.",
        ),
        Option(
            name="timeout-seconds",
            kind=Number(0.1, 86_400, "seconds"),
            default=30.0,
            group=_PROOF,
            help="How long to wait for a handshake, and, while messages wait for their answer or delivery, for any "
            "progress. Then what has not come is counted as failed or missing.",
        ),
        Option(
            name="check-database",
            kind=Url(
                schemes=("postgresql", "postgres"),
                example="postgresql://user:password@host:5432/database",
                needs_host=False,
            ),
            default="",
            default_text="do not check",
            may_hold_secret=True,
            group=_PROOF,
            help="At the end, look up every acknowledged message in this database: each must be there once, and the "
            "rooms' seq without a hole.",
        ),
        Option(
            name="output",
            kind=Text("the path of a directory", placeholder="DIRECTORY"),
            default="",
            default_text="only the summary on standard output",
            group=_PROOF,
            help="Write report.html, report.json, messages.csv (a line for each message of the main phase that was "
            "sent) and throughput.csv into this directory, which is made when missing.",
        ),
    ),
)


#: Settings that are written as 0, or as nothing, for none.
_NONE_BY_ZERO = ("senders", "rate", "reconnect", "output", "check_database", "token_audience", "token_issuer")


@attrs.frozen(kw_only=True)
class LoadConfig:
    """:ivar settings: what the run is made of. :ivar check_database: the URL, if the database is to be checked."""

    settings: Settings
    check_database: str | None = attrs.field(repr=lambda url: repr(url and mask_password(url)))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Setting]) -> LoadConfig:
        """
        :param settings: what :func:`chatflow.options.sources` returned for :data:`TABLE`.
        :raises ConfigError: settings that are right by themselves contradict each other.
        """
        _check(settings)
        values: dict[str, Any] = {name.replace("-", "_"): setting.value for name, setting in settings.items()}
        for name in _NONE_BY_ZERO:
            values[name] = values[name] or None
        check_database = values["check_database"]
        run = f"{secrets.randbelow(16**6):06x}"
        own = {field.name: values[field.name] for field in attrs.fields(Settings) if field.name in values}
        own["urls"] = values["url"]
        own["token_key"] = next(iter(values["token_key"]), None)
        return cls(
            settings=Settings(**own, keep_ids=check_database is not None, run=run), check_database=check_database
        )


def _check(settings: Mapping[str, Setting]) -> None:
    if not settings["url"].value:
        raise ConfigError(f"url ({settings['url'].source}): must be at least one URL")
    if any("?" in url for url in settings["url"].value):
        raise ConfigError(f"url ({settings['url'].source}): must have no query, since the room is appended to it")
    check_order(settings, ("senders", "connections"), ("processes", "connections"))


if __name__ == "__main__":
    from chatflow.options.manual import as_page

    print(as_page(TABLE, "Configuration of the load client"), end="")
