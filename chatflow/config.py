"""Every setting of the daemon: the table, and the configuration that the rest of ChatFlow is handed.

``python -m chatflow.config`` prints ``docs/configuration.rst``.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from chatflow.authority import parse_origin
from chatflow.endpoints import Endpoint
from chatflow.errors import ConfigError
from chatflow.identity_options import IDENTITY_OPTIONS, check_identity
from chatflow.limit_options import LIMIT_OPTIONS
from chatflow.logs import LogSettings
from chatflow.logs.log_options import LOG_OPTIONS
from chatflow.options import Choice, Integer, Number, Option, Setting, Table, Text, Url, check_order, mask_password
from chatflow.options.kinds import Plain

SERVER_ID_CHARACTERS = 20
"""Bound by the column ``server_id`` and by what SQS leaves of a queue name's 80 characters."""


@attrs.frozen
class Origin(Plain):
    """A web origin (RFC 6454) in its one form, ``null``, or ``*``. An app's own scheme is as good as the web's."""

    placeholder: str = "ORIGIN"
    allowed: str = (
        "null, * or an origin such as https://chat.example.com, http://localhost:3000 or capacitor://localhost, "
        "without a path"
    )

    def parse(self, text: str) -> str:
        return text if text == "*" else str(parse_origin(text) or "null")


def default_server_id(host_name: str) -> str:
    """The host's name without its domain, with what a server id may not contain made a dash.

    Of a long name the end is kept: that is where Kubernetes writes what tells its pods apart.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", host_name.partition(".")[0])
    return safe[-SERVER_ID_CHARACTERS:].strip("-") or "server"


_NETWORK = "Listening and clients"
_ROOMS = "Rooms and the queue"
_DATABASE = "Database"
_AWS = "Many instances: --broker sqs"
_STOP = "Starting and stopping"

#: Of the time for stopping, what is not spent on waiting for a receive that was just begun.
_STOP_SECONDS = 10
_MAX_POLLED_QUEUES = 500

TABLE = Table(
    name="chatflow",
    siblings=("chatflow-load", "chatflow-test"),  # the load client, and ChatFlow's own tests
    summary=(
        "ChatFlow is a chat server. Clients hold WebSocket connections to /chat/ROOM; every message is "
        "stored in PostgreSQL, numbered within its room and then delivered to everyone in the room, exactly "
        "once and in one order. Without any option it runs alone: it starts a PostgreSQL of its own and "
        "keeps everything below ./chatflow-data."
    ),
    examples=(
        ("Try it in the foreground on http://localhost:8080/", "twistd -n chatflow"),
        (
            "Another port, an existing PostgreSQL, its password kept out of `ps`",
            "CHATFLOW_DATABASE=postgresql://chat:secret@db/chat twistd -n chatflow --listen tcp:80",
        ),
        (
            "In the background, settings from a file",
            "twistd --pidfile=/run/chatflow.pid chatflow --config chatflow.ini",
        ),
        ("What would apply, and why", "twistd -n chatflow --config chatflow.ini --show-config"),
    ),
    own_options=(
        Option(
            name="listen",
            kind=Endpoint(),
            default=("8080",),
            repeatable=True,
            group=_NETWORK,
            help="Where clients connect, for WebSocket and HTTP alike. A port number alone is that port of all "
            "addresses of this machine, of IPv6 and IPv4; with `localhost:` before it nobody else reaches it. Where "
            "the system has only one of the two, the log says so. A Twisted endpoint means what it says: `tcp:8080` "
            "is IPv4 alone. Port 0 takes a free port, which is logged. An address in use ends the start. `systemd` "
            "takes every socket that systemd hands over, and `systemd:NAME` those of this FileDescriptorName=: see "
            "docs/systemd.rst. `ssl:8443:privateKey=key.pem:certKey=certificate.pem` is TLS (1.2 or newer); add "
            "`:extraCertChain=chain.pem` for intermediate certificates. SIGHUP reads these files again.",
        ),
        Option(
            name="allowed-origins",
            kind=Origin(),
            default=(),
            default_text="none",
            repeatable=True,
            group=_NETWORK,
            help="The web pages that may connect besides those of the same host, by the Origin header that "
            "browsers send; * allows all. Others are refused with HTTP 403. Programs send no Origin and may "
            "always connect. These pages may also read what HTTP answers (CORS), without cookies. Apps have origins "
            "of their own, such as capacitor://localhost or tauri://localhost; null is that of files and of sandboxed "
            "frames, so of anybody's.",
        ),
        Option(
            name="ping-interval-seconds",
            kind=Number(0, 3600, "seconds"),
            default=20.0,
            group=_NETWORK,
            help="A client of which nothing was heard for once to twice so long is sent a WebSocket ping, and is "
            "disconnected when as long again brings nothing either. 0 sends none, and dead connections stay until the "
            "system notices.",
        ),
        *IDENTITY_OPTIONS,
        Option(
            name="rooms",
            kind=Integer(1, 10_000),
            default=20,
            group=_ROOMS,
            help="How many rooms there are; they are called 1, 2, 3 and so on. Any other is refused with "
            "HTTP 404. With fewer than before, the messages of the others stay in the database.",
        ),
        Option(
            name="broker",
            kind=Choice(("embedded", "sqs")),
            default="embedded",
            group=_ROOMS,
            help="The queue that keeps each room's messages in order. `embedded` lives in this process, for a single "
            "instance; a message is acknowledged once it is in the database. `sqs` makes this instance one of many on "
            "Amazon SQS and SNS; a message is acknowledged once SQS has it. Needs a --database URL that all instances "
            "share, and what `chatflow-admin setup` makes.",
        ),
        Option(
            name="server-id",
            kind=Text(
                f"1 to {SERVER_ID_CHARACTERS} letters, digits, _ or -",
                f"[A-Za-z0-9_-]{{1,{SERVER_ID_CHARACTERS}}}",
                "ID",
            ),
            default=lambda: default_server_id(socket.gethostname()),
            default_text="the host's name, shortened",
            group=_ROOMS,
            help="Names this instance in messages, logs and queues. Different for each instance of a cluster.",
        ),
        Option(
            name="database",
            kind=Url(
                schemes=("postgresql", "postgres"),
                words=("embedded",),
                example="postgresql://user:password@host:5432/database",
                needs_host=False,
            ),
            default="embedded",
            may_hold_secret=True,
            group=_DATABASE,
            help="Where messages are stored. `embedded` starts a PostgreSQL of its own in --data-dir (needs "
            "the extra chatflow[embedded]). A URL names a PostgreSQL 15 or newer whose schema "
            "`chatflow-admin migrate` has made. When the database is away, nothing is acknowledged, and "
            "beyond --max-pending-messages clients are told.",
        ),
        Option(
            name="data-dir",
            kind=Text("the path of a directory", placeholder="DIRECTORY"),
            default="./chatflow-data",
            group=_DATABASE,
            help="Holds the embedded PostgreSQL, and its address in the file database.url. Made when "
            "missing. Two daemons cannot share one.",
        ),
        Option(
            name="database-connections",
            kind=Integer(1, 100),
            default=4,
            group=_DATABASE,
            help="Connections, each with a thread, for history and statistics; the writer has its own "
            "besides, and so have mutes and bans, and with SQS the heartbeats. When all are busy, further requests "
            "wait for one.",
        ),
        Option(
            name="batch-size",
            kind=Integer(1, 10_000, "messages"),
            default=1000,
            group=_DATABASE,
            help="The most messages that one transaction stores. Further ones wait for the next.",
        ),
        Option(
            name="linger-ms",
            kind=Number(0, 1000, "ms"),
            default=4.0,
            group=_DATABASE,
            help="The longest, in milliseconds, that messages are gathered between one commit and the next. They are "
            "gathered only while others come anyway as one is stored, and only until there are enough to pay for a "
            "commit; a lone message never waits. 0: never.",
        ),
        Option(
            name="partitions-ahead-days",
            kind=Integer(1, 366, "days"),
            default=7,
            group=_DATABASE,
            help="How many days ahead the daily partitions of the messages are made. A message of a day "
            "without one is stored all the same, in the default partition.",
        ),
        Option(
            name="retention-days",
            kind=Integer(0, 36_500, "days"),
            default=0,
            default_text="0, for ever",
            group=_DATABASE,
            help="Messages are kept for today and this many days before; older days (UTC) are deleted whole, and "
            "cannot be resumed from. 0 keeps all for ever.",
        ),
        Option(
            name="refresh-views-seconds",
            kind=Number(0, 86_400, "seconds"),
            default=60.0,
            group=_DATABASE,
            help="How often the materialized views behind /api/metrics are refreshed, by one instance for all of them. "
            "0 leaves it to POST /api/metrics/refresh-views.",
        ),
        Option(
            name="queue-prefix",
            kind=Text("1 to 20 letters, digits, _ or -", "[A-Za-z0-9_-]{1,20}", "NAME"),
            default="chatflow",
            group=_AWS,
            help="Begins the names of all queues and topics. Deployments with different ones share nothing.",
        ),
        Option(
            name="room-queues",
            kind=Integer(0, 10_000, "queues"),
            default=0,
            default_text="0, one for each room",
            group=_AWS,
            help="How many SQS queues serve the rooms, at most 500. Fewer than rooms share them, so that one call "
            "carries several rooms. The same on all instances, and for `chatflow-admin setup`. Before changing it or "
            "--rooms, let the queues run empty: see docs/cluster.rst.",
        ),
        Option(
            name="max-linger-ms",
            kind=Number(0, 10_000, "ms"),
            default=600.0,
            group=_AWS,
            help="The longest gap between two publishes, or two receives, of a queue. The gap is nothing while calls "
            "are quick and few; it grows as their round trip rises or --max-calls-per-second is reached.",
        ),
        Option(
            name="max-calls-per-second",
            kind=Number(1, 10_000, "calls"),
            default=100.0,
            group=_AWS,
            help="How many AWS calls this instance should make in a second. With more, the gap grows, up to "
            "--max-linger-ms; beyond that, calls are made all the same.",
        ),
        Option(
            name="publishing-threads",
            kind=Integer(1, 64, "threads"),
            default=4,
            group=_AWS,
            help="Threads for sending, deleting and publishing. A call costs about 2 ms of processor time; more "
            "threads than calls under way gain nothing.",
        ),
        Option(
            name="publish-seconds",
            kind=Number(1, 240, "seconds"),
            default=60.0,
            group=_AWS,
            help="How long an envelope is tried again that SQS does not accept. Then its senders get an error frame "
            "of code `unavailable`. Less than the five minutes in which SQS recognises a repetition.",
        ),
        Option(
            name="long-poll-seconds",
            kind=Integer(1, 20, "seconds"),
            default=20,
            group=_AWS,
            help="How long a receive waits for a message. Less makes more calls while idle; stopping may have to "
            "wait for so long.",
        ),
        Option(
            name="visibility-seconds",
            kind=Integer(2, 43_200, "seconds"),
            default=4,
            group=_AWS,
            help="How long a room waits for the instance that holds its head, if that dies: at least so long, and up "
            "to 30 seconds where messages are held for long anyhow, because database or calls are slow. While the "
            "instance lives it extends this, which costs calls.",
        ),
        Option(
            name="reap-after-seconds",
            kind=Number(5, 86_400, "seconds"),
            default=60.0,
            group=_AWS,
            help="An instance whose heartbeat is older than this is taken for dead: the others remove its fan-out "
            "queue.",
        ),
        *LIMIT_OPTIONS,
        Option(
            name="drain-grace-seconds",
            kind=Number(0, 3600, "seconds"),
            default=0.0,
            group=_STOP,
            help="How long stopping (SIGTERM, SIGINT) is put off: `/health/ready` is 503 at once, while everybody is "
            "still served and new connections are taken. As long as a load balancer needs to notice, so that none of "
            "its clients is refused: for an ALB, the interval of its health checks times the unhealthy threshold, and "
            "one time-out more. A second signal ends it at once. Without a balancer, or with one that is told before "
            "(scripts/deploy roll), 0.",
        ),
        Option(
            name="drain-seconds",
            kind=Number(0, 3600, "seconds"),
            default=30.0,
            group=_STOP,
            help="How long stopping may take after --drain-grace-seconds: no new connections, accepted messages are "
            "stored and acknowledged, clients are closed with code 1012. What is not done by then is given "
            "up; a message that was not acknowledged may be lost with it, an acknowledged one is stored "
            "already. With --broker sqs at least 10 seconds more than --long-poll-seconds, since a receive under way "
            "has to be waited for.",
        ),
        *LOG_OPTIONS,
    ),
)


#: Settings that are written as 0, or as nothing, for none.
NONE_BY_ZERO = {"retention_days", "room_queues", "jwt_jwks", "jwt_issuer", "page_token_url"}


@attrs.frozen(kw_only=True)
class Config:
    """The settings of the daemon, valid and in agreement. The options' help says what each one means."""

    listen: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    public_host: tuple[str, ...]
    compress: bool
    trusted_proxy: tuple[str, ...]
    ping_interval_seconds: float
    auth: str
    jwt_key: tuple[str, ...] = attrs.field(repr=False)
    jwt_jwks: str | None
    jwt_jwks_seconds: float
    jwt_audience: tuple[str, ...]
    jwt_issuer: str | None
    page_token_url: str | None
    jwt_leeway_seconds: float
    admin_listen: tuple[str, ...]
    admin_token: tuple[str, ...] = attrs.field(repr=False)
    rooms: int
    broker: str
    server_id: str
    database: str = attrs.field(repr=mask_password)
    data_dir: Path = attrs.field(converter=Path)
    database_connections: int
    batch_size: int
    linger_ms: float
    partitions_ahead_days: int
    retention_days: int | None
    refresh_views_seconds: float
    queue_prefix: str
    room_queues: int | None
    max_linger_ms: float
    max_calls_per_second: float
    publishing_threads: int
    publish_seconds: float
    long_poll_seconds: int
    visibility_seconds: int
    reap_after_seconds: float
    max_connections: int
    max_frame_bytes: int
    max_pending_messages: int
    max_pending_per_connection: int
    max_client_buffer_bytes: int
    send_timeout_seconds: float
    drain_grace_seconds: float
    max_buffered_bytes: int
    request_seconds: float
    unlimited_address: tuple[str, ...]
    max_connections_per_address: int
    max_unfinished_per_address: int
    connections_per_second_per_address: float
    resumes_per_second_per_address: float
    requests_per_second_per_address: float
    messages_per_second: float
    messages_per_second_per_address: float
    messages_per_second_per_user: float
    bytes_per_second: float
    bytes_per_second_per_address: float
    drain_seconds: float
    log_level: str
    log_format: str
    log_file: str
    log_file_bytes: int
    log_files_kept: int

    @property
    def is_cluster(self) -> bool:
        """Whether there may be other instances, which the broker brings together."""
        return self.broker != "embedded"

    @property
    def log_settings(self) -> LogSettings:
        """Where the log goes, and how."""
        file = Path(self.log_file) if self.log_file != "-" else None
        return LogSettings(self.log_level, self.log_format, file, self.log_file_bytes, self.log_files_kept)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Setting]) -> Config:
        """
        :param settings: what :func:`chatflow.options.sources` returned for :data:`TABLE`.
        :raises ConfigError: settings that are right by themselves contradict each other.
        """
        _check(settings)
        names = {field.name: field.name.replace("_", "-") for field in attrs.fields(cls)}
        values: dict[str, Any] = {field: settings[name].value for field, name in names.items()}
        for name in NONE_BY_ZERO:
            values[name] = values[name] or None
        return cls(**values)


def _check(settings: Mapping[str, Setting]) -> None:
    listen = settings["listen"]
    if not listen.value:
        raise ConfigError(f"listen ({listen.source}): must be at least one endpoint")
    endpoints = (*listen.value, *settings["admin-listen"].value)
    twice = next(
        (one for at, one in enumerate(endpoints) if one in endpoints[:at] and not one.startswith("tcp:0")), None
    )
    if twice is not None:
        raise ConfigError(f"listen ({listen.source}): {twice} is named twice, name each endpoint once")
    check_identity(settings)
    behind = next((one for one in listen.value if one.startswith("haproxy:")), None)
    if behind and not settings["trusted-proxy"].value:
        raise ConfigError(
            f"listen = {behind} ({listen.source}): who may say there where a client is? Give --trusted-proxy"
        )
    broker, database = settings["broker"], settings["database"]
    if broker.value == "sqs" and database.value == "embedded":
        raise ConfigError(
            f"database = embedded ({database.source}): with broker = sqs ({broker.source}) must be the "
            "postgresql:// URL of a database that all instances share"
        )
    if broker.value == "sqs":
        _check_polls(settings)
    check_order(
        settings,
        # A batch could never be full: with a linger, each one would wait for messages that cannot come.
        ("batch-size", "max-pending-messages"),
        ("max-pending-per-connection", "max-pending-messages"),
        # What one client may send, another must be able to be sent.
        ("max-frame-bytes", "max-client-buffer-bytes"),
    )


def _check_polls(settings: Mapping[str, Setting]) -> None:
    long_poll, drain = settings["long-poll-seconds"], settings["drain-seconds"]
    if drain.value < long_poll.value + _STOP_SECONDS:
        raise ConfigError(
            f"drain-seconds = {drain.value:g} ({drain.source}): must be at least {_STOP_SECONDS} more than "
            f"long-poll-seconds = {long_poll.value} ({long_poll.source})"
        )
    rooms, room_queues = settings["rooms"], settings["room-queues"]
    polled = min(room_queues.value or rooms.value, rooms.value)
    if polled > _MAX_POLLED_QUEUES:
        raise ConfigError(
            f"room-queues = {room_queues.value} ({room_queues.source}): with rooms = {rooms.value} ({rooms.source}) "
            f"there would be {polled} queues, each with a thread that polls it: must be 1 to {_MAX_POLLED_QUEUES}"
        )


if __name__ == "__main__":
    from chatflow.options.manual import as_page

    print(as_page(TABLE, "Configuration of the daemon"), end="")
