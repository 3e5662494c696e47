"""What people are told when AWS does not do what it is asked: one line, and a remedy."""

from __future__ import annotations

import pytest
from botocore import exceptions

from scripts.deployment.session import explain
from tests.deployment.running import deploy

_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.mark.parametrize("words", [("up",), ("roll",), ("status",), ("down", "--yes", "chatflow")])
@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"AWS_REGION": "eu-west-1"}, "no credentials for AWS were found"),
        (_KEYS, "no AWS region is chosen"),
    ],
)
def test_what_is_not_set_is_one_line_with_its_remedy_and_status_1(
    words: tuple[str, ...], environment: dict[str, str], why: str
) -> None:
    ended = deploy(*words, environment=environment)
    assert ended.returncode == 1
    first, *remedy = ended.stderr.splitlines()
    assert first == f"deploy: {why}"
    assert len(remedy) == 1
    assert ended.stdout == ""


@pytest.mark.parametrize("environment", [{}, {"AWS_REGION": "eu-west-1"}, {"AWS_PROFILE": "none"}])
def test_a_plan_without_aws_says_what_would_be_done_and_why_it_could_not_compare(environment: dict[str, str]) -> None:
    ended = deploy("plan", "--rooms", "7", "--set", "InstanceCount=6", environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Could not compare with AWS, because " in ended.stdout
    assert "+ SQS: 8 Queue" in ended.stdout
    assert "InstanceCount = 6\n" in ended.stdout
    assert "Then 6 instances start" in ended.stdout
    assert "Nothing was changed." in ended.stdout


def test_a_plan_for_an_aws_that_cannot_be_reached_says_so() -> None:
    where = {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1", **_KEYS}
    ended = deploy("plan", environment=where)
    assert ended.returncode == 0
    assert "because AWS cannot be reached: " in ended.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("plan", "--set", "InstanceCont=6"), "--set InstanceCont=6: must be NAME=VALUE with one of the stack's"),
        (("plan", "--set", "InstanceCount"), "--set InstanceCount: must be NAME=VALUE"),
        (("up", "--set", "ReleaseKey=x"), "--set ReleaseKey=x: ReleaseKey is what scripts/deploy itself says"),
        (("plan", "--rooms", "0"), "rooms is 0"),
        (("plan", "--archive", "/none"), "--archive /none: must be a file called chatflow-VERSION.tar.gz"),
        (("down",), "no credentials"),
    ],
)
def test_what_cannot_be_meant_is_told_before_aws_is_asked(words: tuple[str, ...], why: str) -> None:
    ended = deploy(*words, environment={"AWS_REGION": "us-east-1"})
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"deploy: {why}")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("rol",),
        ("roll", "--", "--linger-ms", "1"),
        ("roll", "--wheel", "x"),
        ("roll", "--local", "--release", "1"),
        ("roll", "--local", "--rollback", "--", "--linger-ms", "1"),
        ("roll", "--rollback", "--release", "1"),
        ("roll", "--ready-seconds", "-1"),
        ("roll", "--max-lag-seconds", "nan"),
        ("roll", "--local", "x"),
        ("up", "--local"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2_and_the_usage(words: tuple[str, ...]) -> None:
    ended = deploy(*words, environment={})
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: scripts/deploy")


def _refused(code: str) -> exceptions.ClientError:
    return exceptions.ClientError({"Error": {"Code": code, "Message": "said"}}, "DescribeStacks")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (_refused("ExpiredToken"), "the credentials for AWS have expired"),
        (_refused("ExpiredTokenException"), "the credentials for AWS have expired"),
        (_refused("RequestExpired"), "the credentials for AWS have expired"),
        (_refused("InvalidClientTokenId"), "AWS does not know these credentials (InvalidClientTokenId)"),
        (_refused("SignatureDoesNotMatch"), "AWS does not know these credentials (SignatureDoesNotMatch)"),
        (_refused("AccessDenied"), "these credentials may not DescribeStacks: said"),
        (_refused("UnauthorizedOperation"), "these credentials may not DescribeStacks: said"),
        (_refused("Throttling"), "AWS takes no more calls at the moment (DescribeStacks: Throttling), after several"),
        (_refused("RequestLimitExceeded"), "AWS takes no more calls at the moment"),
        (_refused("ValidationError"), "AWS refuses DescribeStacks: ValidationError: said"),
        (exceptions.NoRegionError(), "no AWS region is chosen"),
        (exceptions.ProfileNotFound(profile="x"), "The config profile (x) could not be found"),
        (exceptions.PartialCredentialsError(provider="env", cred_var="x"), "no credentials for AWS were found"),
        (exceptions.SSOTokenLoadError(profile_name="x", error_msg="y"), "the credentials for AWS cannot be had"),
        (exceptions.ConnectTimeoutError(endpoint_url="x"), "AWS cannot be reached"),
        (exceptions.ReadTimeoutError(endpoint_url="x"), "AWS cannot be reached"),
    ],
)
def test_each_failure_is_one_line(error: exceptions.BotoCoreError, why: str) -> None:
    stopped = explain(error)
    assert str(stopped).startswith(why)
    assert "\n" not in str(stopped)
