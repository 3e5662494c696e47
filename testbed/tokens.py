"""An issuer of tokens for tests: keys of every kind, their public half as a JWKS, and tokens, good and bad."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of tests that nobody else shall know".replace(" ", "-")
AUDIENCE = "chatflow-tests"


def encode(part: Any) -> str:
    """JSON, or bytes as they are, in base64url as a part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(user_id: object = "7", name: object = "alice", *, seconds: float = 3600, **more: Any) -> dict[str, Any]:
    """Those of a good token; None leaves one out."""
    now = int(time.time())
    whole = {"sub": user_id, "name": name, "iat": now, "exp": now + seconds, "aud": AUDIENCE, **more}
    return {name: value for name, value in whole.items() if value is not None}


def hs256(payload: Mapping[str, Any] | bytes, secret: str | bytes = SECRET, **header: Any) -> str:
    """Signed by hand, so that its header may be anything."""
    signed = f"{encode({'alg': 'HS256', 'typ': 'JWT', **header})}.{encode(payload)}"
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{encode(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def user_token(user_id: object = "7", name: object = "alice", **more: Any) -> str:
    """A good token of a user."""
    return hs256(claims(user_id, name, **more))


class Issuer:
    """Has a key for each algorithm, named after it."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }

    def token(self, algorithm: str, payload: Mapping[str, Any], **header: Any) -> str:
        """A token that is signed with the key of an algorithm. A header of None is left out."""
        headers = {"kid": algorithm, **header}
        return jwt.encode(
            dict(payload),
            self.keys[algorithm],
            algorithm=algorithm,
            headers={name: value for name, value in headers.items() if value is not None},
        )

    def public_jwks(self) -> list[dict[str, Any]]:
        """The public keys, each as a JWK."""
        kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        return [
            {**kinds[name].to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig"}
            for name, key in self.keys.items()
        ]

    def document(self, *names: str) -> bytes:
        """The JWKS, of all keys or of those named."""
        return json.dumps({"keys": [key for key in self.public_jwks() if not names or key["kid"] in names]}).encode()

    def public_pem(self) -> bytes:
        """What a forger signs with, if a server takes a public key for a secret."""
        pem: bytes = self.keys["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem
