"""What clients may cost, and who they are taken for: a part of the daemon's table of options."""

from __future__ import annotations

import attrs

from chatflow.authority import parse_authority
from chatflow.networks import parse_network
from chatflow.options import Flag, Integer, Number, Option
from chatflow.options.kinds import Plain

_LIMITS = "Limits: what happens when something is too much"
_STRANGERS = "Limits of addresses: what one client may take from the others"


@attrs.frozen
class Network(Plain):
    """An address or a network in its one form, or a word that is none."""

    word: str
    placeholder: str = "NETWORK"

    @property
    def allowed(self) -> str:
        return f"an address or a network such as 10.0.0.0/8 or 2001:db8::/32, or {self.word}"

    def parse(self, text: str) -> str:
        if text == self.word:
            return text
        network = parse_network(text)
        return str(network.network_address if network.num_addresses == 1 else network)


@attrs.frozen
class Host(Plain):
    """A host name or address in its one form, without a port."""

    placeholder: str = "HOST"
    allowed: str = "a host name or an address such as chat.example.com, localhost or [::1], without a port"

    def parse(self, text: str) -> str:
        authority = parse_authority(text)
        if not authority.host or authority.port is not None:
            raise ValueError
        return authority.host


def _rate(name: str, unit: str, default: float, help: str) -> Option:
    maximum = 1_000_000_000 if unit == "bytes" else 1_000_000
    return Option(name=name, kind=Number(0, maximum, unit), default=default, group=_STRANGERS, help=help)


LIMIT_OPTIONS = (
    Option(
        name="max-connections",
        kind=Integer(1, 1_000_000),
        default=10_000,
        group=_LIMITS,
        help="The most WebSocket connections at a time. Further ones are refused with HTTP 503. With those of "
        "plain HTTP there may be 1,000 more; for one beyond that the oldest is closed that has not finished its "
        "request, of the address that has the most of them. The limit of open files (ulimit -n) must be higher.",
    ),
    Option(
        name="max-frame-bytes",
        kind=Integer(1024, 1_048_576, "bytes"),
        default=16_384,
        group=_LIMITS,
        help="The largest message that a client may send, in one frame or several. A larger one is read over and "
        "answered with an error frame of code `too_large`; beyond 4 MiB the client is closed with code 1009.",
    ),
    Option(
        name="max-pending-messages",
        kind=Integer(1, 10_000_000, "messages"),
        default=20_000,
        group=_LIMITS,
        help="The most messages of this instance that are accepted but not yet acknowledged. Each "
        "further one is refused with an error frame of code `overloaded`; its connection lives on.",
    ),
    Option(
        name="max-pending-per-connection",
        kind=Integer(1, 1_000_000, "messages"),
        default=500,
        group=_LIMITS,
        help="The same of one connection. Beyond it nothing more is read from the connection until half "
        "of them are acknowledged, so that the client's own sending slows down; nothing is refused.",
    ),
    Option(
        name="max-client-buffer-bytes",
        kind=Integer(1024, 1_073_741_824, "bytes"),
        default=4_194_304,
        group=_LIMITS,
        help="The most bytes that wait to be sent to one client. A client that reads more slowly is "
        "closed with code 1013; it can connect again and resume where it was. Others do not notice.",
    ),
    Option(
        name="send-timeout-seconds",
        kind=Number(1, 3600, "seconds"),
        default=60.0,
        group=_LIMITS,
        help="How long a client may take nothing of what waits to be sent to it, beyond what the system holds for "
        "it. Then a WebSocket client is closed with code 1013, and the answer to an HTTP request is given up. A "
        "slow client that goes on reading may take as long as it needs.",
    ),
    Option(
        name="max-buffered-bytes",
        kind=Integer(0, 1_000_000_000_000, "bytes"),
        default=0,
        default_text="0, a quarter of the memory that the process may have, at most 1 GiB",
        group=_LIMITS,
        help="The most bytes that wait to be sent to all WebSocket clients together; what several of them wait for "
        "counts once. Beyond it those that wait for the most are closed with code 1013, and of these first who has "
        "taken nothing for the longest time. More than three quarters of the memory that the process may have is "
        "refused at the start.",
    ),
    Option(
        name="request-seconds",
        kind=Number(1, 3600, "seconds"),
        default=10.0,
        group=_LIMITS,
        help="How long a request may take to come in, head and body, from the moment of the connection, however "
        "steadily bytes come; a handshake is one. Then it is answered with HTTP 408. Behind an answer there are 30 "
        "seconds more for the next one.",
    ),
    Option(
        name="public-host",
        kind=Host(),
        default=(),
        default_text="none: by any name",
        repeatable=True,
        group=_STRANGERS,
        help="The names by which clients reach this server, without ports. A request whose header Host has another one "
        "is answered with HTTP 421; /health always answers. Without it a page of a stranger's whose name was made to "
        "lead here (DNS rebinding) is taken for one of this server's own: give it wherever browsers are, on your own "
        "machine as well, there as localhost. Who asks by address, such as chatflow-admin monitor, needs the address "
        "named, too.",
    ),
    Option(
        name="compress",
        kind=Flag(),
        default=False,
        group=_STRANGERS,
        help="Compresses for WebSocket clients that offer it (permessage-deflate), each message by itself: of a "
        "broadcast of 230 bytes that saves 30 %, of one of 720 bytes 37 %, and it costs 20 to 40 µs here, once for all "
        "members of the room. What a client sends may be --max-frame-bytes when it is unpacked.",
    ),
    Option(
        name="trusted-proxy",
        kind=Network("unix"),
        default=(),
        default_text="none",
        repeatable=True,
        group=_STRANGERS,
        help="The addresses of load balancers and proxies in front, or `unix` for whoever comes by a UNIX socket. Of "
        "them alone it is believed who a client is: in X-Forwarded-For or Forwarded (of several hops the last one "
        "that is no such proxy), or in PROXY protocol, with an endpoint such as `haproxy:tcp:8080`. That address is "
        "stored with messages and counts for limits; without this option it is the proxy's own, whatever it says. "
        "One that names no address is answered with HTTP 400.",
    ),
    Option(
        name="unlimited-address",
        kind=Network("none"),
        default=("127.0.0.1", "::1"),
        repeatable=True,
        group=_STRANGERS,
        help="Addresses that none of the limits below holds for: those of load generators, bots and gateways that you "
        "run; `none` for no one. By default it is this machine, by its usual addresses, so that what is tried out here "
        "meets no limit; to load it from another machine, name that one. A proxy on this machine that is no "
        "--trusted-proxy makes everybody unlimited.",
    ),
    Option(
        name="max-connections-per-address",
        kind=Integer(0, 1_000_000),
        default=500,
        group=_STRANGERS,
        help="The most WebSocket connections of one address; further ones are refused with HTTP 429. An address of "
        "IPv6 is here, and in what follows, a network of 64 bits, as one household has it. 0 for any number.",
    ),
    Option(
        name="max-unfinished-per-address",
        kind=Integer(0, 1_000_000),
        default=100,
        group=_STRANGERS,
        help="The most connections of one address that wait for the rest of a request, or for the next one. For a "
        "further one the oldest is closed. Not of proxies. 0 for any number.",
    ),
    _rate(
        "connections-per-second-per-address",
        "connections",
        20.0,
        "How many handshakes one address may make in a second; others are refused with HTTP 429. Like every rate here "
        "it lets through at once what two seconds of it would, to one who was quiet before. Who is refused more than "
        "10 times at once, or 5 times a second, is shut out: its connections are closed unheard, for 5 seconds and as "
        "long as it goes on. 0 for no limit, and nobody is shut out.",
    ),
    _rate(
        "resumes-per-second-per-address",
        "resumes",
        5.0,
        "How many of these may ask for much history in a second: with since=0, or for more than 1,000 messages. Others "
        "are refused with HTTP 429. 0 for no limit.",
    ),
    _rate(
        "requests-per-second-per-address",
        "requests",
        10.0,
        "How many HTTP requests one address may make in a second, other than handshakes; others are refused with HTTP "
        "429. One for statistics (/api/metrics, /queue/all) counts as ten, a page of history as one for each 100 "
        "messages asked for. /health is always answered; beyond the rate the connection ends with the answer. 0 for no "
        "limit, and nobody is shut out.",
    ),
    _rate(
        "messages-per-second",
        "messages",
        20.0,
        "How many messages one connection may send in a second. Each further one is refused with an error frame of "
        "code `rate_limited` that says when to send it again, and the connection is not read for as long. After 500 of "
        "them in a row it is closed with code 1008. Pings and fragments count too, but are not refused. 0 for no "
        "limit.",
    ),
    _rate(
        "messages-per-second-per-address",
        "messages",
        50.0,
        "The same for all connections of one address together. A place is kept for the message that is refused: when "
        "its time has come it is accepted. 0 for no limit.",
    ),
    _rate(
        "messages-per-second-per-user",
        "messages",
        50.0,
        "The same for all connections of one user on this instance, of whatever address, where a token says who that "
        "is; what is sent by POST counts, too. Not where only messages say it: anybody could use up what another one "
        "may send. 0 for no limit.",
    ),
    _rate(
        "bytes-per-second",
        "bytes",
        100_000.0,
        "How many bytes one connection may send in a second. What is beyond is read later; nothing is refused. What is "
        "read at once counts as 1,024 bytes at least: who drips costs as much. 0 for no limit.",
    ),
    _rate(
        "bytes-per-second-per-address",
        "bytes",
        1_000_000.0,
        "The same for all connections of one address together, those of plain HTTP among them. 0 for no limit.",
    ),
)
