"""The settings of who is who: whose tokens are good, and who is an operator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from chatflow.endpoints import Endpoint
from chatflow.errors import ConfigError
from chatflow.options import Choice, Number, Option, Setting, Text
from chatflow.options.kinds import Plain, Secrets
from chatflow.options.table import ENVIRONMENT, FILE

_IDENTITY = "Who is who"

#: Where everybody on the machine could read it.
_NOT_ON_THE_COMMAND_LINE = frozenset({ENVIRONMENT, FILE})
_MIN_ADMIN_TOKEN = 16
#: RFC 7518, 3.2: a key of HS256 is as long as its hash, or longer.
_MIN_JWT_KEY = 32


@attrs.frozen
class _Location(Plain):
    """Of which a password may be a part, by mistake."""

    def may_quote(self, text: str) -> bool:
        return "@" not in text


@attrs.frozen
class KeySource(_Location):
    """The path of a file, or a URL that nobody on the way can answer."""

    placeholder: str = "FILE|URL"
    allowed: str = "the path of a file, or an https:// URL (http:// of this machine alone)"

    def parse(self, text: str) -> str:
        if not re.fullmatch(r"[^\x00-\x1f\x7f\ud800-\udfff]+", text):
            raise ValueError
        if "://" in text:
            _check_url(text)
        return text


@attrs.frozen
class TokenAddress(_Location):
    """Where a browser fetches a token: a path of the page's own host, or a URL that nobody on the way can answer."""

    placeholder: str = "PATH|URL"
    allowed: str = "a path such as /login/token, or an https:// URL (http:// of this machine alone)"

    def parse(self, text: str) -> str:
        # What browsers take for the beginning of a host is no path.
        if not re.fullmatch(r"[!-\[\]-~]+", text) or text.startswith("//"):
            raise ValueError
        if not text.startswith("/"):
            _check_url(text)
            if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", urlsplit(text).netloc):  # it becomes a part of a policy
                raise ValueError
        return text


def _check_url(text: str) -> None:
    parts = urlsplit(text)
    is_here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not (parts.scheme == "https" or is_here) or not parts.hostname:
        raise ValueError
    if "@" in parts.netloc:
        raise ValueError("it must have no user and no password")


IDENTITY_OPTIONS = (
    Option(
        name="auth",
        kind=Choice(("none", "jwt")),
        default="none",
        group=_IDENTITY,
        help="Who may connect. `none`: everybody, who may speak for every user. `jwt`: who has a JSON Web Token, "
        "as docs/authentication.rst describes it; it says who that is, until when, and in which rooms. The same is "
        "asked of requests for history and presence; operators need --admin-token-file or --admin-listen then.",
    ),
    Option(
        name="jwt-key",
        kind=Secrets(_MIN_JWT_KEY, "such as `openssl rand -base64 48` prints"),
        default=(),
        default_text="none",
        group=_IDENTITY,
        may_hold_secret=True,
        sources=_NOT_ON_THE_COMMAND_LINE,
        help="The secret that tokens of the algorithm HS256 are signed with. Several, one on each line of the file, "
        "are all good; `chatflow-admin token` signs with the first. Whoever has one can be anybody.",
    ),
    Option(
        name="jwt-jwks",
        kind=KeySource(),
        default="",
        default_text="none",
        group=_IDENTITY,
        help="The public keys that tokens of RS256, ES256 and EdDSA (Ed25519) are signed with: a JSON Web Key Set in "
        "a file, or at the URL that the issuer publishes. What cannot be read changes nothing: the keys that are "
        "known stay good. Needs --jwt-audience: an issuer signs for others, too.",
    ),
    Option(
        name="jwt-jwks-seconds",
        kind=Number(10, 86_400, "seconds"),
        default=300.0,
        group=_IDENTITY,
        help="How often the keys are read again. A token that names a key which is not known makes that happen at "
        "once, at most every 10 seconds; it is answered with HTTP 503 meanwhile.",
    ),
    Option(
        name="jwt-audience",
        kind=Text("text on one line", placeholder="NAME"),
        default=(),
        default_text="none",
        repeatable=True,
        group=_IDENTITY,
        help="What a token must name in its claim aud; one of several is enough. Without it, tokens must not have "
        "that claim.",
    ),
    Option(
        name="jwt-issuer",
        kind=Text("text on one line", placeholder="NAME"),
        default="",
        default_text="any",
        group=_IDENTITY,
        help="What a token must say in its claim iss.",
    ),
    Option(
        name="jwt-leeway-seconds",
        kind=Number(0, 300, "seconds"),
        default=30.0,
        group=_IDENTITY,
        help="By how much the clock of who makes tokens may differ from this one: a token is good that much longer.",
    ),
    Option(
        name="page-token-url",
        kind=TokenAddress(),
        default="",
        default_text="none",
        group=_IDENTITY,
        help="Where the page at / fetches its tokens, of whoever logs users in: asked with the cookies that the "
        'browser has for it, it answers {"token": "..."}, or HTTP 401 if nobody is logged in. Without it the page '
        "asks for a token in a field. An address of another origin has to allow the page's, with credentials.",
    ),
    Option(
        name="admin-listen",
        kind=Endpoint(),
        default=(),
        default_text="none",
        repeatable=True,
        group=_IDENTITY,
        help="Where operators connect, written as for --listen. /metrics, /db-metrics, /queue/, /dashboard and "
        "/api/metrics/ are found there, and no longer where clients connect. Without --admin-token-file whoever "
        "reaches it is an operator: choose an address such as localhost:9090.",
    ),
    Option(
        name="admin-token",
        kind=Secrets(_MIN_ADMIN_TOKEN, "such as `openssl rand -hex 32` prints"),
        default=(),
        default_text="none",
        group=_IDENTITY,
        may_hold_secret=True,
        sources=_NOT_ON_THE_COMMAND_LINE,
        help="What operators send to be known as such, as Authorization: Bearer, or as the password that a browser "
        "asks for. Several, one on each line of the file, are all good. Without it, and with --auth jwt, what is "
        "for operators is closed where clients connect.",
    ),
)


def check_identity(settings: Mapping[str, Setting]) -> None:
    """:raises ConfigError: settings that are right by themselves contradict each other, or are not enough."""
    auth, key, jwks = settings["auth"], settings["jwt-key"], settings["jwt-jwks"]
    if auth.value == "none":
        given = next((one for one in ("jwt-key", "jwt-jwks", "page-token-url") if settings[one].value), None)
        if given is not None:
            raise ConfigError(
                f"{given} ({settings[given].source}): is of no use with auth = none ({auth.source}): say auth = jwt"
            )
        return
    if not key.value and not jwks.value:
        raise ConfigError(f"auth = jwt ({auth.source}): needs jwt-key-file or jwt-jwks, to know whose tokens are good")
    if jwks.value and not settings["jwt-audience"].value:
        raise ConfigError(
            f"jwt-jwks = {jwks.value} ({jwks.source}): needs jwt-audience, or tokens that are for others would be good"
        )
