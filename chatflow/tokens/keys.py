"""Keys that tokens are signed with. Each is good for one algorithm, whatever a token says (RFC 8725, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from attrs import field, frozen
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError
from msgspec import UNSET

from chatflow.errors import ChatFlowError

#: RFC 7518, 3.3.
_MIN_RSA_BITS = 2048
#: Of a set. A token without a key id is tried with all of its algorithm.
MAX_KEYS = 50
_MAX_KEY_ID_CHARACTERS = 256


class BadKeys(ChatFlowError):
    """What should be keys is none. The text repeats nothing of it."""


@frozen
class Key:
    """:ivar algorithm: the only one that it verifies: ``HS256``, ``RS256``, ``ES256`` or ``EdDSA``.
    :ivar key_id: the header ``kid`` of tokens that it has signed; None for any.
    """

    algorithm: str
    material: Any = field(repr=False)
    key_id: str | None = None


def shared_keys(secrets: Sequence[str]) -> tuple[Key, ...]:
    """Keys of HS256, which whoever verifies can sign with, too."""
    return tuple(Key("HS256", secret.encode()) for secret in secrets)


class _Jwk(msgspec.Struct):
    """RFC 7517, 4."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None
    crv: str | None = None
    d: Any = UNSET


class _Jwks(msgspec.Struct):
    keys: list[msgspec.Raw]


# By kty and, where there is one, crv (RFC 7518, 6; RFC 8037, 2).
_ALGORITHMS: dict[tuple[str, str | None], tuple[str, Any]] = {
    ("RSA", None): ("RS256", RSAAlgorithm),
    ("EC", "P-256"): ("ES256", ECAlgorithm),
    ("OKP", "Ed25519"): ("EdDSA", OKPAlgorithm),
}


def parse_jwks(data: bytes) -> tuple[Key, ...]:
    """The public keys of a JSON Web Key Set that can verify tokens; others, such as for encryption, are left out.

    A shared secret (``kty`` ``oct``) is left out, too: what is published is no secret.

    :raises BadKeys: it is no set, has too many keys, holds a private key, or none that is of use here.
    """
    try:
        raw = msgspec.json.decode(data, type=_Jwks).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadKeys('it is not a JSON Web Key Set, which looks like {"keys": [...]}') from None
    if len(raw) > MAX_KEYS:
        raise BadKeys(f"it has {len(raw)} keys, the most is {MAX_KEYS}")
    keys = tuple(key for each in raw if (key := _parse(bytes(each))) is not None)
    if not keys:
        raise BadKeys("it has no public key for RS256 (2048 bits or more), ES256 or EdDSA (Ed25519)")
    return keys


def _parse(data: bytes) -> Key | None:
    try:
        jwk = msgspec.json.decode(data, type=_Jwk)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if jwk.kty != "oct" and jwk.d is not UNSET:
        raise BadKeys("it holds a private key, which belongs to whoever signs alone: publish its public part")
    name, algorithm = _ALGORITHMS.get((jwk.kty, jwk.crv), ("", None))
    is_for_signatures = jwk.use in (None, "sig") and (jwk.key_ops is None or "verify" in jwk.key_ops)
    if algorithm is None or not is_for_signatures or jwk.alg not in (None, name):
        return None
    if jwk.kid is not None and len(jwk.kid) > _MAX_KEY_ID_CHARACTERS:
        return None
    try:
        material = algorithm.from_jwk(data.decode())
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if jwk.kty == "RSA" and material.key_size < _MIN_RSA_BITS:
        return None
    return Key(name, material, jwk.kid)
