"""What each kind of failure means for fan-out messages: an SNS that throttles is not one that does not answer."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, CredentialRetrievalError, ReadTimeoutError
from twisted.internet.task import Clock

from chatflow.broker.aws import AwsError, as_aws_error
from chatflow.broker.publishing import FanoutCounters, Publisher
from chatflow.broker.settling import is_final
from chatflow.lifecycle import Outstanding
from tests.support.chat import make_stored


def answered(code: str, status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PublishBatch")


_THROTTLED = [
    answered("Throttled", 429),
    answered("ThrottlingException"),
    answered("RequestThrottled", 403),
    answered("KMSThrottling"),
    answered("KmsThrottled"),
    answered("TooManyRequestsException"),
    answered("RequestLimitExceeded", 503),
    answered("ServiceUnavailable", 503),
    answered("Strange", 429),
]
_SILENT = [
    answered("InternalError", 500),
    answered("AuthorizationError", 403),
    answered("ExpiredToken", 403),
    answered("RequestExpired", 400),
    ConnectionClosedError(endpoint_url="http://sns"),
    ReadTimeoutError(endpoint_url="http://sns"),
    CredentialRetrievalError(provider="role", error_msg="away"),
]


class Sns:
    """Fails with ``error`` while there is one; then takes everything, or all but the entries that are in ``failed``."""

    def __init__(self, error: Any = None) -> None:
        self.error = error
        self.failed: str | None = None
        self.calls: list[list[str]] = []

    async def sns(self, operation: str, **asked: Any) -> dict[str, Any]:
        entries = asked["PublishBatchRequestEntries"]
        self.calls.append([entry["MessageGroupId"] for entry in entries])
        if self.error is not None:
            raise as_aws_error(operation, self.error)
        if self.failed is not None:
            return {"Failed": [{"Id": entry["Id"], "Code": self.failed, "SenderFault": True} for entry in entries]}
        return {"Successful": [{"Id": entry["Id"]} for entry in entries]}

    async def sqs(self, operation: str, **asked: Any) -> dict[str, Any]:
        raise NotImplementedError


class FanoutRig:
    def __init__(self, error: Any = None) -> None:
        self.clock = Clock()
        self.sns = Sns(error)
        self.counters = FanoutCounters()
        self.publisher = Publisher(clock=self.clock, calls=self.sns, counters=self.counters, outstanding=Outstanding())

    def publish(self, seq: int, room: int = 1) -> bool:
        """Whether storing goes on at once."""
        published = self.publisher.publish([make_stored(seq, room)])
        self.clock.advance(0)
        return bool(published.called)

    def pass_seconds(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05))


def kind(error: Any) -> str:
    return str(error)[:60]


@pytest.mark.parametrize("error", _THROTTLED, ids=kind)
def test_throttled_news_go_out_once_sns_takes_them_and_nobody_waits_meanwhile(error: Any) -> None:
    rig = FanoutRig(error)
    assert rig.publish(1)
    assert rig.publish(2)
    assert rig.publish(1, room=2)
    rig.pass_seconds(1)
    assert 1 < len(rig.sns.calls) < 20, "with pauses"
    rig.sns.error = None
    rig.pass_seconds(2)
    assert rig.sns.calls[-1] == ["1", "2"], "what had gathered shares a call"
    assert rig.counters.publish_failures == 0
    assert rig.counters.published == 3


@pytest.mark.parametrize("code", ["ThrottlingException", "KMSThrottling"])
def test_entries_that_are_throttled_within_a_call_are_sent_again(code: str) -> None:
    rig = FanoutRig()
    rig.sns.failed = code
    assert rig.publish(1)
    rig.pass_seconds(1)
    rig.sns.failed = None
    rig.pass_seconds(2)
    assert rig.counters.publish_failures == 0
    assert rig.counters.published == 1


def test_news_that_are_throttled_for_long_are_given_up_and_later_ones_are_not() -> None:
    rig = FanoutRig(_THROTTLED[0])
    rig.publish(1)
    rig.pass_seconds(5)
    rig.publish(2)
    rig.pass_seconds(2)
    assert rig.counters.publish_failures == 1
    rig.sns.error = None
    rig.pass_seconds(2)
    assert rig.counters.published == 1
    assert rig.publisher.publish([make_stored(3)]).called is False, "storing waits again, as is usual"
    rig.pass_seconds(1)
    assert rig.counters.published == 2


def test_what_gathers_while_sns_throttles_is_bounded() -> None:
    rig = FanoutRig(_THROTTLED[0])
    rig.publish(1)
    for seq in range(2, 30_000):
        rig.publisher.publish([make_stored(seq)])
    assert rig.counters.publish_failures == 29_998 - 10_000


@pytest.mark.parametrize("error", _SILENT, ids=kind)
def test_an_sns_that_does_not_take_news_at_all_is_left_alone_for_a_while(error: Any) -> None:
    rig = FanoutRig(error)
    rig.publish(1)
    assert len(rig.sns.calls) == 2
    rig.publish(2)
    rig.pass_seconds(1)
    assert len(rig.sns.calls) == 2
    assert rig.counters.publish_failures == 2


def test_news_that_sns_finds_faulty_are_lost_alone() -> None:
    rig = FanoutRig(answered("InvalidParameter"))
    rig.publish(1)
    assert len(rig.sns.calls) == 1
    rig.sns.error = None
    rig.publish(2)
    assert rig.counters.publish_failures == 1
    assert rig.counters.published == 1


@pytest.mark.parametrize("code", ["ThrottlingException", "KmsThrottled", "OverLimit", "RequestThrottled"])
def test_a_throttled_entry_of_sqs_is_tried_again(code: str) -> None:
    assert not is_final({"SenderFault": True, "Code": code})
    assert is_final({"SenderFault": True, "Code": "KmsAccessDenied"})


def test_what_was_throttled_was_certainly_not_carried_out() -> None:
    assert as_aws_error("publish_batch", _THROTTLED[1]).certain
    assert not as_aws_error("publish_batch", ReadTimeoutError(endpoint_url="x")).certain
    assert isinstance(as_aws_error("publish_batch", _SILENT[0]), AwsError)
