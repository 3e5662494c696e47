"""Who is asked who they are, put together: the verifier of users' tokens, the operators' tokens, the gates of ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.application.service import Service

from chatflow.config import Config
from chatflow.edge.gate import AdminTokens, Gate, Gates
from chatflow.lifecycle import PeriodicService
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.lifecycle.clocks import WallTime
from chatflow.lifecycle.reload import Apply, ReadAgain
from chatflow.tokens.claims import Expected
from chatflow.tokens.jwks import RETRY_SECONDS, Jwks
from chatflow.tokens.keys import shared_keys
from chatflow.tokens.verifier import TokenCounts, TokenVerifier


@frozen(kw_only=True)
class Authentication:
    """:ivar verifier: of users' tokens; None with ``--auth none``.
    :ivar admin_tokens: of operators.
    :ivar gates: of the ports.
    :ivar counts: of tokens that were judged.
    :ivar services: by name, in the order of their start.
    """

    verifier: TokenVerifier | None
    jwks: Jwks | None
    admin_tokens: AdminTokens
    gates: Gates
    counts: TokenCounts
    services: Sequence[tuple[str, Service]]

    def ready(self) -> bool:
        """Whether tokens can be judged."""
        return self.jwks is None or self.jwks.is_known

    def changes(self) -> Mapping[str, Apply]:
        """What puts a secret that was read again in force, by its option's name."""
        return {"jwt-key": self.replace_keys, "admin-token": self.admin_tokens.replace}

    def parts(self) -> Mapping[str, ReadAgain]:
        """What is read again by itself: see :meth:`.RootService.read_again`."""
        return {} if self.jwks is None else {"JWKS": self.jwks.read_again}

    def replace_keys(self, secrets: Sequence[str]) -> None:
        """From now on tokens of HS256 are signed with one of these."""
        if self.verifier is not None:
            self.verifier.replace_secrets(shared_keys(secrets))


def make_authentication(config: Config, reactor: Any, now: WallTime) -> Authentication:
    """What the settings ask for, not started.

    :param now: seconds since the epoch, for when tokens expire.
    """
    verifier, jwks, services, counts = None, None, [], TokenCounts()
    if config.auth == "jwt":
        expected = Expected(
            audiences=config.jwt_audience, issuer=config.jwt_issuer, leeway_seconds=config.jwt_leeway_seconds
        )
        if config.jwt_jwks is not None:
            jwks = Jwks(reactor=reactor, source=config.jwt_jwks, refresh_seconds=config.jwt_jwks_seconds)
            services = [
                ("JWKS", CallbackService(jwks.start)),
                (
                    "reading of JWKS",
                    PeriodicService(reactor, "reading of JWKS", RETRY_SECONDS, jwks.look, at_once=True),
                ),
            ]
        verifier = TokenVerifier(
            secrets=shared_keys(config.jwt_key), jwks=jwks, expected=expected, now=now, counts=counts
        )
    admin_tokens = AdminTokens(config.admin_token)
    return Authentication(
        verifier=verifier,
        jwks=jwks,
        admin_tokens=admin_tokens,
        gates=Gates(
            public=Gate(verifier=verifier, admin_tokens=admin_tokens, has_operators=not config.admin_listen),
            operators=Gate(admin_tokens=admin_tokens, for_operators=True),
        ),
        counts=counts,
        services=services,
    )
