"""What boto3 finds around the process, and why it cannot work with that, in one line without secrets."""

from __future__ import annotations

import os

from botocore.exceptions import ClientError, HTTPClientError

from chatflow.passwords import MASK, without_passwords

_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")

_CLOCK = "set the clock of this machine"
_CREDENTIALS = "give other credentials: docs/cluster.rst"
_ENDPOINT = "check AWS_ENDPOINT_URL, AWS_REGION and the network"

#: What an operator does about an error, by AWS's code or the name of botocore's exception.
_REMEDIES = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "AccessDenied": "docs/cluster.rst lists what the role must allow",
    "AccessDeniedException": "docs/cluster.rst lists what the role must allow",
    "AuthorizationError": "docs/cluster.rst lists what the role must allow",
    "ExpiredToken": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "NoCredentialsError": _CREDENTIALS,
    "CredentialRetrievalError": _CREDENTIALS,
    "EndpointConnectionError": _ENDPOINT,
    "ConnectTimeoutError": _ENDPOINT,
    "ReadTimeoutError": _ENDPOINT,
    "SSLError": "check AWS_ENDPOINT_URL and AWS_CA_BUNDLE",
}


def tidy_environment() -> None:
    """Take AWS's variables as they are meant: boto3 takes an empty one for a profile, a region, an endpoint of no name.

    Compose files make empty ones of what is not set, and ``echo`` puts a line end behind a secret. Changes
    ``os.environ``, since boto3 and its parts read it in many places, at any time.
    """
    for name, text in list(os.environ.items()):
        if not name.startswith("AWS_"):
            continue
        if trimmed := text.strip():
            os.environ[name] = trimmed
        else:
            del os.environ[name]


def explain(error: Exception) -> str:
    """One line: what is wrong, and what to do about it if that is known."""
    if type(error) is HTTPClientError and "header" in str(error):
        # Its text repeats the header, in which the session token is.
        return f"the credentials hold characters that cannot be sent ({_CREDENTIALS})"
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        code, text = details.get("Code", "Unknown"), details.get("Message", "")
    else:
        code, text = type(error).__name__, str(error)
    text = without_secrets(text)
    remedy = _REMEDIES.get(code)
    if code == "SignatureDoesNotMatch":
        remedy = _CLOCK if "expired" in text or "not yet current" in text else _CREDENTIALS
    return f"{text} ({remedy})" if remedy else text


def without_secrets(text: str) -> str:
    """One line without what is secret in AWS's variables and in addresses."""
    for name in _SECRET_VARIABLES:
        if secret := os.environ.get(name, "").strip():
            text = text.replace(secret, MASK)
    return without_passwords(" ".join(text.split()))
