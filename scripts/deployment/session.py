"""The way to AWS, and what to say when it does not work."""

from __future__ import annotations

import os
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config

from scripts.deployment.errors import Stopped

# A deployment is in no hurry: calls that are throttled, or time out, are repeated with growing pauses by botocore.
_CONFIG = Config(
    connect_timeout=5,
    read_timeout=30,
    retries={"mode": "standard", "max_attempts": 6},
    user_agent_extra="chatflow-deploy",
)

_LOG_IN = "log in: aws sso login, or AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; aws configure"
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_UNKNOWN = {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "AuthFailure",
    "InvalidAccessKeyId",
    "IncompleteSignature",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
_THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "RequestThrottled",
    "SlowDown",
}


class Session:
    """Clients of AWS' services, made when they are first needed.

    :param region: None for what boto3 finds: ``AWS_REGION``, the profile. :param profile: likewise.
    :raises botocore.exceptions.BotoCoreError: there is no such profile, or no region.
    """

    def __init__(self, region: str | None = None, profile: str | None = None) -> None:
        # boto3 itself knows AWS_DEFAULT_REGION only, unlike all other programs.
        region = region or os.environ.get("AWS_REGION") or None
        self._session = boto3.session.Session(region_name=region, profile_name=profile)
        if self._session.region_name is None:
            raise exceptions.NoRegionError  # some services would go on without
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """boto3's; its calls may fail with what :func:`explain` takes."""
        if service not in self._clients:
            make: Any = self._session.client  # its annotations take no name that is not literal
            self._clients[service] = make(service, config=_CONFIG)
        return self._clients[service]

    def check(self) -> str:
        """Whether AWS knows us: the account and the region.

        :raises botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError: it does not.
        """
        client = self.client("sts")
        account: str = client.get_caller_identity()["Account"]
        return f"account {account}, {client.meta.region_name}"


def explain(error: exceptions.BotoCoreError | exceptions.ClientError) -> Stopped:
    """What went wrong and what to do, in words of who deploys."""
    if isinstance(error, exceptions.ClientError):
        return _explain_answer(error)
    if isinstance(error, exceptions.NoRegionError):
        return Stopped("no AWS region is chosen", "say --region eu-west-1, or set AWS_REGION")
    if isinstance(error, exceptions.ProfileNotFound):
        return Stopped(str(error), "see the profiles that there are: aws configure list-profiles")
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return Stopped("no credentials for AWS were found", _LOG_IN)
    if isinstance(error, (exceptions.TokenRetrievalError, exceptions.SSOError, exceptions.CredentialRetrievalError)):
        return Stopped(f"the credentials for AWS cannot be had: {error}", _LOG_IN)
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return Stopped(
            f"AWS cannot be reached: {error}",
            "mend the network, or the endpoint if one is set; then repeat the command",
        )
    return Stopped(f"AWS: {error}")


def _explain_answer(error: exceptions.ClientError) -> Stopped:
    code, said = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    if code in _EXPIRED:
        return Stopped(
            "the credentials for AWS have expired", _LOG_IN, "then repeat the command: it goes on from there"
        )
    if code in _UNKNOWN:
        return Stopped(f"AWS does not know these credentials ({code})", _LOG_IN)
    if code in _DENIED:
        return Stopped(f"these credentials may not {error.operation_name}: {said}", "ask for the permission")
    if code in _THROTTLED:
        return Stopped(
            f"AWS takes no more calls at the moment ({error.operation_name}: {code}), after several tries",
            "repeat the command in a minute: it goes on from there",
        )
    return Stopped(f"AWS refuses {error.operation_name}: {code}: {said}")
