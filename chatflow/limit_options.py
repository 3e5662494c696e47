"""What clients may cost, and who they are taken for: a part of the daemon's table of options."""

from __future__ import annotations

import attrs

from chatflow.networks import parse_network
from chatflow.options import Integer, Number, Option
from chatflow.options.kinds import Plain

_LIMITS = "Limits: what happens when something is too much"
_STRANGERS = "Limits of addresses: what one client may take from the others"


@attrs.frozen
class Proxy(Plain):
    """A network whose hosts are proxies, in its one form; or ``unix``."""

    placeholder: str = "NETWORK"
    allowed: str = "an address or a network such as 10.0.0.0/8 or 2001:db8::/32, or unix"

    def parse(self, text: str) -> str:
        return text if text == "unix" else str(parse_network(text))


LIMIT_OPTIONS = (
    Option(
        name="max-connections",
        kind=Integer(1, 1_000_000),
        default=10_000,
        group=_LIMITS,
        help="The most WebSocket connections at a time. Further ones are refused with HTTP 503. With those of "
        "plain HTTP there may be 1,000 more; what is beyond is closed at once. The limit of open files "
        "(ulimit -n) must be higher.",
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
        name="trusted-proxy",
        kind=Proxy(),
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
)
