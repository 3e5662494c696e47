"""What is answered beside the chat, as applications of Klein's: operations, health, and what is for operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from chatflow.edge.answers import ErrorAnswer
from chatflow.edge.compat.routes import InstanceSource, add_health, add_instance_routes
from chatflow.edge.concurrency import ConcurrencyLimit
from chatflow.edge.dashboard import Dashboard, add_dashboard
from chatflow.edge.gate import Gate
from chatflow.edge.operations import INTERNAL_ERROR, OpenApi, Operation, add_operations, json_response
from chatflow.edge.publishing import MAX_AT_ONCE
from chatflow.edge.refusals import RequestRefused, unavailable
from chatflow.errors import Unavailable
from chatflow.rooms.moderator import Moderator

_log = Logger()

#: Of the HTTP API. They read the database with the connections that resuming clients need too.
_PAGES_AT_ONCE = 2
_ANALYTICS_AT_ONCE = 1
#: One that waits costs little more than its connection.
_WAITING = 1000
#: All who ask for a refresh share it.
_REFRESHES_AT_ONCE = 200


def routes(
    instance: InstanceSource,
    *,
    ready: Callable[[], bool],
    gate: Gate,
    history: Sequence[Operation] = (),
    analytics: Sequence[Operation] = (),
    refreshing: Sequence[Operation] = (),
    publishing: Sequence[Operation] = (),
    moderating: Sequence[Operation] = (),
    moderator: Moderator | None = None,
) -> Klein:
    """Everything but ``/chat/`` and what is for operators as a whole. ``/api/openapi.json`` describes the operations.

    :param ready: whether a load balancer is to send clients here.
    :param gate: knows who asks.
    :param history: operations that read a page each.
    :param analytics: operations that may take seconds.
    :param refreshing: operations that may take minutes, without the connections that the others need.
    :param publishing: operations that wait until a message is durable.
    :param moderating: operations that write a row each, for operators.
    :param moderator: keeps those out who are banned; None for nobody.
    """
    app = Klein()
    add_health(app, instance)
    add_operations(app, history, ConcurrencyLimit(running=_PAGES_AT_ONCE, waiting=_WAITING), gate, moderator)
    add_operations(app, analytics, ConcurrencyLimit(running=_ANALYTICS_AT_ONCE, waiting=_WAITING), gate)
    add_operations(app, refreshing, ConcurrencyLimit(running=_REFRESHES_AT_ONCE, waiting=0), gate)
    add_operations(app, publishing, ConcurrencyLimit(running=MAX_AT_ONCE, waiting=0), gate)
    add_operations(app, moderating, ConcurrencyLimit(running=1, waiting=_WAITING), gate)
    operations = [*history, *analytics, *refreshing, *publishing, *moderating]
    document = OpenApi(metadata.version("chatflow"), operations, gate).document()

    @app.route("/api/openapi.json", methods=["GET", "HEAD"])
    def openapi(request: Any) -> bytes:
        return json_response(request, 200, document)

    @app.route("/api/token", methods=["GET", "HEAD", "POST"])
    def no_tokens(request: Any) -> bytes:
        return _NO_TOKENS.render(request)

    @app.route("/health/live", methods=["GET", "HEAD"])
    def live(request: Any) -> bytes:
        return json_response(request, 200, {"status": "UP"})

    @app.route("/health/ready", methods=["GET", "HEAD"])
    def answer_ready(request: Any) -> bytes:
        is_ready = ready()
        return json_response(request, 200 if is_ready else 503, {"status": "UP" if is_ready else "DOWN"})

    return with_error_answers(app)


def operator_routes(instance: InstanceSource, dashboard: Dashboard) -> Klein:
    """What is for operators alone; whoever uses them asks :meth:`Gate.check_operator` first."""
    app = Klein()
    add_instance_routes(app, instance)
    add_dashboard(app, dashboard)
    return with_error_answers(app)


def with_error_answers(app: Klein) -> Klein:
    """The same, with an answer to everything that can go wrong, which says nothing of AWS or the database."""

    @app.handle_errors(Unavailable)
    def answer_unavailable(request: Any, failure: Failure) -> bytes:
        # The reason may be AWS' or PostgreSQL's own words, with account numbers and names of hosts.
        _log.warn("{path} is not available: {reason}", path=request.path.decode("latin-1"), reason=str(failure.value))
        return ErrorAnswer(unavailable("what was asked for is not available now: try again in a moment")).render(
            request
        )

    @app.handle_errors(HTTPException)
    def no_route(request: Any, failure: Failure) -> bytes:
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            return not_allowed(error.valid_methods or ()).render(request)
        return NOT_FOUND.render(request)

    @app.handle_errors(Exception)
    def fault(request: Any, failure: Failure) -> bytes:
        _log.failure("a request failed", failure)
        return ErrorAnswer(RequestRefused(500, "internal_error", INTERNAL_ERROR)).render(request)

    return app


NOT_FOUND = ErrorAnswer(RequestRefused(404, "not_found", "there is nothing here: see /"))
_NO_TOKENS = ErrorAnswer(
    RequestRefused(
        404,
        "not_found",
        "this server makes no tokens: whoever logs your users in does. `chatflow-admin token` makes one for trying",
    )
)


def allow(methods: Iterable[str]) -> str:
    """Of a header of that name (RFC 9110, 10.2.1)."""
    return ", ".join(sorted({*methods, "OPTIONS"}))


def not_allowed(methods: Iterable[str]) -> ErrorAnswer:
    """The answer to a method that is none of those."""
    allowed = allow(methods)
    return ErrorAnswer(RequestRefused(405, "method_not_allowed", f"this is for {allowed}", {"allow": allowed}))
