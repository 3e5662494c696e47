"""boto3's clients, each made once, and calls to them in threads of their own, counted and timed.

Each operation is tried once here; who calls knows what a failed call means and tries again. Endpoints, region and
credentials are found as boto3 finds them everywhere (``AWS_ENDPOINT_URL``, ``AWS_REGION``, profiles, roles).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from typing import Any

import boto3
from attrs import Factory, define, frozen
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from chatflow.broker.surroundings import explain, tidy_environment
from chatflow.errors import StartupError, Unavailable
from chatflow.lifecycle import NamedThreadPool

#: An HTTP read must outlast the longest poll (20 s), with time for the answer.
_POLL_READ_SECONDS = 30
#: A publish that hangs holds up its room: soon an unknown outcome, and then tried again under the same id.
_SEND_READ_SECONDS = 5
_CONNECT_SECONDS = 3

_MISSING_QUEUE_CODES = {
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "NotFound",
    "NotFoundException",
}

#: Besides those that say so by their names, such as ThrottlingException, RequestThrottled or KMSThrottling. From
#: "Common Errors" of the API references of SQS, SNS and KMS, and botocore's own list (``botocore.retries.standard``).
_BUSY_CODES = {
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "TooManyRequestsException",
}
_TOO_MANY_REQUESTS = 429

#: One request is wrong, and the next one need not be.
_FAULTY_CODES = {
    "BatchRequestTooLong",
    "InvalidBatchEntryId",
    "InvalidMessageContents",
    "InvalidParameter",
    "InvalidParameterValue",
    "ValidationError",
    "ValidationException",
}


def is_busy_code(code: str) -> bool:
    """Whether AWS says by this that it is asked too often or too much, and would answer later."""
    return "throttl" in code.lower() or code in _BUSY_CODES


class AwsError(Unavailable):
    """A call failed.

    :ivar code: AWS's error code, or the name of the exception for what failed before an answer came.
    :ivar certain: the call was certainly not carried out. Otherwise its outcome is unknown.
    :ivar is_busy: it was throttled: AWS answers, and takes the same call later.
    """

    def __init__(self, operation: str, code: str, message: str, *, certain: bool, is_busy: bool | None = None) -> None:
        super().__init__(f"{operation}: {code}: {message}")
        self.code = code
        self.certain = certain
        self.is_busy = is_busy_code(code) if is_busy is None else is_busy

    @property
    def is_faulty(self) -> bool:
        """Whether this one request is wrong: the same again will fail, and others need not."""
        return self.code in _FAULTY_CODES

    @property
    def is_missing(self) -> bool:
        """Whether the queue or topic does not exist."""
        return self.code in _MISSING_QUEUE_CODES


@define
class CallCounters:
    """Since the start. ``calls``: by operation and outcome, ``ok`` or the error's code."""

    calls: Counter[tuple[str, str]] = Factory(Counter)
    seconds: Counter[str] = Factory(Counter)

    @property
    def total(self) -> int:
        """How many calls there were, over all operations."""
        return sum(self.calls.values())


@frozen
class Clients:
    """Blocking clients: ``poll`` for receiving, ``send`` for the rest of a message's way, ``control`` for set-up."""

    sqs_poll: Any
    sqs_send: Any
    sns_send: Any
    sqs_control: Any
    sns_control: Any


def make_clients(*, polls: int, sends: int) -> Clients:
    """Make every client, in one thread: clients may be shared by threads, the session that makes them may not.

    :param polls: connections kept for receiving.
    :param sends: connections kept for sending.
    :raises StartupError: region or credentials are missing.
    """
    tidy_environment()
    # Otherwise botocore puts its own name together anew, twice for each call: a quarter of its steps in Python.
    name = f"ChatFlow/{metadata.version('chatflow')}"

    def client(session: Any, service: str, connections: int, read_seconds: float, attempts: int) -> Any:
        return session.client(
            service,
            config=Config(
                max_pool_connections=connections,
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=read_seconds,
                retries={"mode": "standard", "total_max_attempts": attempts},
                tcp_keepalive=True,
                user_agent=name,
            ),
        )

    try:
        # Alone among AWS's SDKs, boto3 does not know AWS_REGION.
        session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
        return Clients(
            sqs_poll=client(session, "sqs", polls, _POLL_READ_SECONDS, 1),
            sqs_send=client(session, "sqs", sends, _SEND_READ_SECONDS, 1),
            sns_send=client(session, "sns", sends, _SEND_READ_SECONDS, 1),
            sqs_control=client(session, "sqs", 2, 10, 4),
            sns_control=client(session, "sns", 2, 10, 4),
        )
    except Exception as error:  # ValueError for an endpoint that is none, OSError for a file that cannot be read, ...
        raise StartupError(
            f"AWS cannot be used: {explain(error).rstrip('.')}. Set AWS_REGION and credentials: docs/cluster.rst"
        ) from None


class Aws:
    """The calls of one daemon.

    :param reactor: where results come back.
    :param polls: threads for receiving, one for each queue that is polled at a time.
    :param sends: threads for sending, deleting and publishing; they bound the processor time that calls take.
    :param observe: called with operation and seconds after each call that succeeded.
    :param on_failure: called after each call that did not.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        polls: int,
        sends: int,
        observe: Callable[[str, float], object] = lambda operation, seconds: None,
        on_failure: Callable[[], object] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._polls = polls
        self._sends = sends
        self._observe = observe
        self._on_failure = on_failure
        self.poll_threads = NamedThreadPool(reactor, "aws-receive", polls)
        self.send_threads = NamedThreadPool(reactor, "aws-send", sends)
        self.counters = CallCounters()
        self._clients: Clients | None = None

    def start(self) -> None:
        """Make the clients and the threads.

        :raises StartupError: see :func:`make_clients`.
        """
        self._clients = make_clients(polls=self._polls, sends=self._sends)
        self.poll_threads.startService()
        self.send_threads.startService()

    def stop(self) -> Deferred[Any]:
        """Fires when the calls under way are done: a long poll cannot be interrupted."""
        return gatherResults([self.send_threads.stopService(), self.poll_threads.stopService()])

    @property
    def clients(self) -> Clients:
        """The clients, once started."""
        if self._clients is None:
            raise Unavailable("AWS calls have not started")
        return self._clients

    async def receive(self, **arguments: Any) -> dict[str, Any]:
        """SQS ReceiveMessage, in a polling thread.

        :raises AwsError: the call failed.
        """
        return await self._call(self.poll_threads, self.clients.sqs_poll, "receive_message", arguments)

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Any other call to SQS, in a sending thread. Raises like :meth:`receive`."""
        return await self._call(self.send_threads, self.clients.sqs_send, operation, arguments)

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """A call to SNS, in a sending thread. Raises like :meth:`receive`."""
        return await self._call(self.send_threads, self.clients.sns_send, operation, arguments)

    async def _call(
        self, threads: NamedThreadPool, client: Any, operation: str, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        began = self._reactor.seconds()
        call: Deferred[dict[str, Any]] = threads.run(getattr(client, operation), **arguments)
        try:
            response = await call
        except CALL_FAILURES as error:
            failure = as_aws_error(operation, error)
            self.counters.calls[operation, failure.code] += 1
            self._on_failure()
            raise failure from None  # what is secret in the error is not in the failure
        seconds = self._reactor.seconds() - began
        self.counters.calls[operation, "ok"] += 1
        self.counters.seconds[operation] += seconds
        self._observe(operation, seconds)
        return response


#: What a call of boto3 may raise. A ResponseParserError is of an answer that came from something else than AWS; the
#: last two of surroundings that cannot be used, such as a file of certificates that is not there.
CALL_FAILURES = (ClientError, BotoCoreError, ResponseParserError, OSError, ValueError)


def as_aws_error(operation: str, error: Exception) -> AwsError:
    """What boto3 raised (see :data:`CALL_FAILURES`), in our terms."""
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        # A server's own error says nothing of what it did before; a client's error means that it refused to.
        code = details.get("Code", "Unknown")
        return AwsError(
            operation,
            code,
            explain(error),
            certain=400 <= status < 500,
            is_busy=status == _TOO_MANY_REQUESTS or is_busy_code(code),
        )
    return AwsError(operation, type(error).__name__, explain(error), certain=False)
