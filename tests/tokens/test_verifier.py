"""Which tokens are good, and which are not, whatever they say of themselves (RFC 8725)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from chatflow.contracts.identity import Identity
from chatflow.errors import TokenRefused
from chatflow.tokens.claims import Expected
from chatflow.tokens.jwks import Jwks
from chatflow.tokens.keys import BadKeys, parse_jwks, shared_keys
from chatflow.tokens.verifier import MAX_TOKEN_CHARACTERS, TokenCounts, TokenVerifier
from testbed.tokens import AUDIENCE, SECRET, Issuer, encode, hs256

NOW = 1_800_000_000.0
UNIFORM = "the token is not valid here"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


def claims(**more: Any) -> dict[str, Any]:
    whole = {"sub": "7", "name": "alice", "exp": NOW + 100, "aud": AUDIENCE, **more}
    return {name: value for name, value in whole.items() if value is not None}


@pytest.fixture
def verifier(issuer: Issuer) -> TokenVerifier:
    jwks = Jwks(reactor=Clock(), source="keys.json", refresh_seconds=300, read=lambda source: issuer.document())
    jwks.start()
    expected = Expected(audiences=[AUDIENCE], issuer=None, leeway_seconds=30)
    return TokenVerifier(
        secrets=shared_keys([SECRET, SECRET[::-1]]), jwks=jwks, expected=expected, now=lambda: NOW, counts=TokenCounts()
    )


def test_each_algorithm_is_verified_with_its_own_key(verifier: TokenVerifier, issuer: Issuer) -> None:
    alice = Identity(user_id=7, username="alice", expires_at=NOW + 130)
    for token in (
        hs256(claims()),
        hs256(claims(), SECRET[::-1]),
        *(issuer.token(algorithm, claims()) for algorithm in issuer.keys),
        issuer.token("ES256", claims(), kid=None),
        issuer.token("RS256", claims(), typ="at+jwt"),
    ):
        assert verifier.verify(token) == alice


def forged(issuer: Issuer) -> dict[str, str]:
    """Tokens that nobody has signed who may."""
    good = hs256(claims())
    head, body, signature = good.split(".")
    rs256 = issuer.token("RS256", claims())
    stranger = Issuer()
    return {
        "nothing": "",
        "one part": "x",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "blanks around": f" {good} ",
        "padding": f"{good}=",
        "a line end behind it": f"{good}\n",
        "no header": f"e30.{body}.{signature}",
        "a header that is no JSON": f"AAAA.{body}.{signature}",
        "a header that is a list": f"{encode([])}.{body}.{signature}",
        "deep nesting": f"{encode(b'[' * 2000)}.{body}.{signature}",
        "none": f"{encode({'alg': 'none'})}.{body}.",
        "none with a signature": f"{encode({'alg': 'none'})}.{body}.{signature}",
        "None": f"{encode({'alg': 'NoNe'})}.{body}.{signature}",
        "no algorithm": hs256(claims(), alg=None),
        "an algorithm in lower case": hs256(claims(), alg="hs256"),
        "HS512": hs256(claims(), alg="HS512"),
        "another body": f"{head}.{encode(claims(sub='8'))}.{signature}",
        "another secret": hs256(claims(), "x" * 40),
        "the public key as the secret": hs256(claims(), issuer.public_pem()),
        "the public key as the secret, by its name": hs256(claims(), issuer.public_pem(), kid="RS256"),
        "the secret of HS256 said to be RS256": hs256(claims(), alg="RS256", kid="RS256"),
        "the key of another algorithm": issuer.token("RS256", claims(), kid="ES256"),
        "a stranger's key": stranger.token("ES256", claims()),
        "a key in the token": stranger.token("RS256", claims(), jwk=stranger.public_jwks()[0]),
        "a key id that is a number": hs256(claims(), kid=7),
        "crit": hs256(claims(), crit=["exp"], exp=1),
        "an empty crit": hs256(claims(), crit=[]),
        "crit that is null": hs256(claims(), crit=None),
        "b64": hs256(claims(), b64=False),
        "another type": hs256(claims(), typ="logout+jwt"),
        "RS256 with a byte of the signature changed": rs256[:-8] + ("A" if rs256[-8] != "A" else "B") + rs256[-7:],
        "too long": hs256(claims(more="x" * MAX_TOKEN_CHARACTERS)),
    }


FORGED = list(forged(Issuer()))


@pytest.mark.parametrize("what", FORGED)
def test_a_token_that_nobody_signed_is_refused_and_not_told_why(
    what: str, verifier: TokenVerifier, issuer: Issuer
) -> None:
    with pytest.raises(TokenRefused) as caught:
        verifier.verify(forged(issuer)[what])
    assert caught.value.code == "invalid_token"
    assert str(caught.value) == (
        UNIFORM if what != "too long" else f"a token has at most {MAX_TOKEN_CHARACTERS} characters"
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"sub": None}, "the claim sub is missing"),
        ({"sub": 7}, "sub must be a userId"),
        ({"sub": "0"}, "sub must be a userId"),
        ({"sub": "07"}, "sub must be a userId"),
        ({"sub": "100001"}, "sub must be a userId"),
        ({"sub": "7 "}, "sub must be a userId"),
        ({"sub": "٧"}, "sub must be a userId"),
        ({"sub": "alice@example.com"}, "sub must be a userId"),
        ({"exp": None}, "the claim exp is missing"),
        ({"exp": str(NOW + 100)}, "exp must be"),
        ({"exp": True}, "exp must be"),
        ({"exp": 1e18}, "exp must be"),
        ({"exp": NOW - 30}, "has expired"),
        ({"exp": 0}, "has expired"),
        ({"nbf": NOW + 31}, "of the future"),
        ({"iat": NOW + 31}, "of the future"),
        ({"nbf": -1}, "nbf must be"),
        ({"aud": None}, "not for this server"),
        ({"aud": "another"}, "not for this server"),
        ({"aud": []}, "not for this server"),
        ({"aud": 1}, "aud must be"),
        ({"name": "al"}, "name must be"),
        ({"name": "Alice Smith"}, "name must be"),
        ({"name": 7}, "name must be"),
        ({"rooms": []}, "rooms must be"),
        ({"rooms": {"read": "all"}}, "rooms must be"),
        ({"rooms": {"read": ["0"]}}, "rooms must be"),
        ({"rooms": {"reed": [1]}}, "rooms must be"),
    ],
)
def test_a_signed_token_that_is_wrong_is_told_why(wrong: dict[str, Any], told: str, verifier: TokenVerifier) -> None:
    with pytest.raises(TokenRefused, match=told) as caught:
        verifier.verify(hs256(claims(**wrong)))
    assert caught.value.code == ("token_expired" if "expired" in told else "invalid_token")


@pytest.mark.parametrize("payload", [b"", b"x", b"[]", b"7", b'{"exp": 1e400}', b"[" * 3000, b'{"sub":"\xff"}'])
def test_a_signed_payload_that_is_no_object_is_refused(payload: bytes, verifier: TokenVerifier) -> None:
    with pytest.raises(TokenRefused):
        verifier.verify(hs256(payload))


def test_the_edges_of_time_count_the_leeway(verifier: TokenVerifier) -> None:
    for good in ({"exp": NOW - 29}, {"nbf": NOW + 30}, {"iat": NOW + 30.0}, {"exp": NOW + 0.5}):
        verifier.verify(hs256(claims(**good)))


def test_one_of_several_audiences_is_enough(verifier: TokenVerifier) -> None:
    verifier.verify(hs256(claims(aud=["another", AUDIENCE])))


def test_an_audience_that_nobody_expects_is_refused_and_so_is_another_issuer() -> None:
    def made(expected: Expected) -> TokenVerifier:
        return TokenVerifier(
            secrets=shared_keys([SECRET]), jwks=None, expected=expected, now=lambda: NOW, counts=TokenCounts()
        )

    with pytest.raises(TokenRefused, match="not for this server"):
        made(Expected()).verify(hs256(claims()))
    made(Expected()).verify(hs256(claims(aud=None)))
    for issuer in (None, "https://evil.example", "https://login.example/"):
        with pytest.raises(TokenRefused, match="another issuer"):
            made(Expected(issuer="https://login.example")).verify(hs256(claims(aud=None, iss=issuer)))


def test_the_claim_of_rooms_allows_what_it_names_and_nothing_else(verifier: TokenVerifier) -> None:
    some = verifier.verify(hs256(claims(rooms={"read": [1, "2"], "write": ["2"]})))
    assert [some.may_read(room) for room in (1, 2, 3)] == [True, True, False]
    assert [some.may_write(room) for room in (1, 2, 3)] == [False, True, False]
    reader = verifier.verify(hs256(claims(rooms={"read": "*"})))
    assert reader.may_read(99)
    assert not reader.may_write(99)
    everything = verifier.verify(hs256(claims()))
    assert everything.may_read(99)
    assert everything.may_write(99)


def test_a_replaced_secret_is_good_no_more(verifier: TokenVerifier) -> None:
    token = hs256(claims())
    verifier.verify(token)
    verifier.replace_secrets(shared_keys(["another-secret-that-is-long-enough-too"]))
    with pytest.raises(TokenRefused):
        verifier.verify(token)


def test_what_was_refused_is_counted_by_reason(verifier: TokenVerifier) -> None:
    counts = verifier._counts
    verifier.verify(hs256(claims()))
    for token in ("x", hs256(claims(), "x" * 40), hs256(claims(exp=0))):
        with pytest.raises(TokenRefused):
            verifier.verify(token)
    accepted, refused = (reading.read() for reading in counts.readings())
    assert isinstance(refused, dict)
    assert accepted == 1
    assert {reason: count for reason, count in refused.items() if count} == {
        "malformed": 1,
        "signature": 1,
        "expired": 1,
    }


class TestKeySets:
    def test_keys_that_are_not_for_signatures_are_left_out(self, issuer: Issuer) -> None:
        rsa, ec, okp = issuer.public_jwks()
        document = [
            {**rsa, "use": "enc"},
            {**ec, "key_ops": ["encrypt"]},
            {**okp, "alg": "HS256"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
            {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
            {**ec, "x": "AA"},
            "x",
            {},
            {**okp, "kid": "good"},
        ]
        assert [key.key_id for key in parse_jwks(json.dumps({"keys": document}).encode())] == ["good"]

    @pytest.mark.parametrize(
        ("data", "told"),
        [
            (b"", "not a JSON Web Key Set"),
            (b"<html>", "not a JSON Web Key Set"),
            (b"[]", "not a JSON Web Key Set"),
            (b"[" * 3000, "not a JSON Web Key Set"),
            (b'{"keys": []}', "no public key"),
            (b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}', "no public key"),
            (json.dumps({"keys": [{}] * 51}).encode(), "the most is 50"),
            (b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "d": "hunter2", "x": "AA"}]}', "a private key"),
        ],
    )
    def test_what_is_no_set_is_told_without_what_it_holds(self, data: bytes, told: str) -> None:
        with pytest.raises(BadKeys, match=told) as caught:
            parse_jwks(data)
        assert "hunter2" not in str(caught.value)
