"""HTTP operations as values: what answers a request is also what ``/api/openapi.json`` says of it.

An operation names its parameters, each with the function that checks it and the schema that describes it, and the
struct of its answer. :func:`add_operations` makes routes of them, :class:`OpenApi` the document.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from attrs import field, frozen
from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from chatflow.contracts.identity import Identity
from chatflow.contracts.messages import DESCRIBED_PATTERN
from chatflow.edge.concurrency import ConcurrencyLimit
from chatflow.edge.credentials import PARAMETER
from chatflow.edge.gate import Gate, check_entry, closed
from chatflow.edge.refusals import RequestRefused, unavailable
from chatflow.errors import Unavailable
from chatflow.rooms.moderator import Moderator

_log = Logger()

INTERNAL_ERROR = "a fault of the server: it is in its log"


class ApiError(msgspec.Struct, frozen=True):
    """The body of every refusal: a code for programs and a text for people."""

    status: str
    code: str
    errorMessage: str


def json_response(request: Any, status: int, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    """Set status and headers for ``body``, and return it as JSON."""
    request.setResponseCode(status, HTTPStatus(status).phrase.encode())
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    for name, value in (headers or {}).items():
        request.setHeader(name.encode(), value.encode())
    return msgspec.json.encode(body) + b"\n"


def check_json(headers: Headers) -> None:
    """:raises RequestRefused: 415, the body of a request does not say to be JSON."""
    given = [value.decode("latin-1") for value in headers.getRawHeaders(b"content-type", [])]
    kind, *parameters = [part.strip().lower() for part in (given[0] if len(given) == 1 else "").split(";")]
    is_utf8 = all(
        one.partition("=")[2].strip('"') in ("utf-8", "utf8") for one in parameters if one.startswith("charset")
    )
    if kind != "application/json" or not is_utf8 or headers.hasHeader(b"content-encoding"):
        raise RequestRefused(
            415,
            "unsupported_media_type",
            "the body must be JSON in UTF-8, not compressed: content-type: application/json",
            {"accept-post": "application/json"},
        )


@frozen(kw_only=True)
class Parameter:
    """:ivar parse: the value of a text; ValueError if it is not allowed.
    :ivar allowed: what is, for people: "must be …".
    :ivar status: of the answer to one that is not.
    :ivar complaint: the whole text of that answer, if it is to be another than usual.
    """

    name: str
    help: str
    parse: Callable[[str], Any]
    allowed: str
    schema: Mapping[str, Any]
    in_path: bool = False
    required: bool = False
    default: Any = None
    status: int = 400
    code: str = "invalid_parameter"
    complaint: str | None = None

    def read(self, text: str) -> Any:
        """Its value.

        :raises RequestRefused: the text is not allowed.
        """
        try:
            return self.parse(text)
        except ValueError:
            complaint = self.complaint or f"{self.name} must be {self.allowed}"
            raise RequestRefused(self.status, self.code, complaint) from None


def integer(name: str, least: int, most: int, help: str, **more: Any) -> Parameter:
    """A number in decimal digits, without sign or leading zero."""

    def parse(text: str) -> int:
        if not re.fullmatch("0|[1-9][0-9]{0,18}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    schema = {"type": "integer", "minimum": least, "maximum": most}
    if "default" in more:
        schema["default"] = more["default"]
    allowed = f"an integer from {least} to {most}"
    return Parameter(name=name, help=help, parse=parse, allowed=allowed, schema=schema, **more)


@frozen(kw_only=True)
class Operation:
    """:ivar path: with the names of its parameters in braces.
    :ivar answer: what the handler's result is an instance of.
    :ivar error: what a refusal is an instance of, and ``refusal`` makes it.
    :ivar may: whether somebody may ask this, by identity and arguments; by default operators alone.
    :ivar guarded: whether it is closed where operators cannot be told from others, as without any tokens.
    :ivar tells_what_is_said: or who is there, of the room that is an argument, if one is: nobody who is banned may ask.
    :ivar seen_by: what somebody may see of an answer.
    :ivar status: of the answer. :ivar statuses: of refusals, beside the usual ones.
    :ivar body: what the body of a request is an instance of, if it has one.
    :ivar wants_request: whether the handler is given the request, too; so it is if that has a body.
    :ivar headers: of a request that mean something here, with their help; each is as ``header_schema`` says.
    :ivar strict: whether a parameter that is unknown is refused, and not ignored.
    :ivar handler: is given the parameters by name; those that are not given and have no default are None.
    """

    path: str
    summary: str
    answer: Any
    handler: Callable[..., Awaitable[object]]
    may: Callable[[Identity, Mapping[str, Any]], bool] = lambda identity, arguments: identity.is_operator
    seen_by: Callable[[Identity, Any], Any] = lambda identity, answer: answer
    guarded: bool = False
    tells_what_is_said: bool = False
    parameters: Sequence[Parameter] = ()
    method: str = "GET"
    status: int = 200
    statuses: Sequence[int] = ()
    body: Any = None
    wants_request: bool = False
    headers: Mapping[str, str] = field(factory=dict)
    header_schema: Mapping[str, Any] = field(factory=dict)
    strict: bool = True
    links: Callable[[Any], Mapping[str, str | None]] = lambda answer: {}
    error: Any = ApiError
    refusal: Callable[[RequestRefused], object] = lambda refused: ApiError("ERROR", refused.code, str(refused))

    @property
    def name(self) -> str:
        """For the document and for Klein, unique."""
        return self.method.lower() + re.sub(r"[^a-zA-Z]+", "_", self.path.removeprefix("/api")).rstrip("_")

    def arguments(self, in_path: Mapping[str, str], query: Mapping[bytes, Sequence[bytes]]) -> dict[str, Any]:
        """The values of all parameters.

        :raises RequestRefused: one is missing, given twice or not allowed; or unknown, if that matters.
        """
        known = {parameter.name for parameter in self.parameters if not parameter.in_path}
        given: dict[str, str] = {}
        for raw, values in query.items():
            name = raw.decode("utf-8", "replace")
            if name not in known and not self.strict:
                continue
            if name not in known:
                allowed = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
                raise RequestRefused(400, "invalid_parameter", f"there is no parameter {name[:50]}: {allowed}")
            if len(values) > 1:
                raise RequestRefused(400, "invalid_parameter", f"{name} is given more than once")
            given[name] = values[0].decode("utf-8", "replace")
        arguments: dict[str, Any] = {}
        for parameter in self.parameters:
            text = (in_path if parameter.in_path else given).get(parameter.name)
            if text is not None:
                arguments[parameter.name] = parameter.read(text)
            elif parameter.required:
                raise RequestRefused(400, "missing_parameter", f"{parameter.name} is missing: {parameter.help}")
            else:
                arguments[parameter.name] = parameter.default
        return arguments


def add_operations(
    app: Klein,
    operations: Sequence[Operation],
    limit: ConcurrencyLimit,
    gate: Gate,
    moderator: Moderator | None = None,
) -> None:
    """Add a route to ``app`` for each operation, with its limits on concurrency, for those whom the gate lets in.

    :param moderator: knows who is banned.
    """
    for operation in operations:
        route = re.sub(r"\{(\w+)\}", r"<\1>", operation.path)
        methods = ["GET", "HEAD"] if operation.method == "GET" else [operation.method]
        app.route(route, methods=methods, endpoint=operation.name)(_responder(operation, limit, gate, moderator))


def _responder(
    operation: Operation, limit: ConcurrencyLimit, gate: Gate, moderator: Moderator | None
) -> Callable[..., Awaitable[bytes]]:
    async def respond(request: Any, **in_path: str) -> bytes:
        try:
            if operation.guarded and not gate.knows_operators:
                raise closed()
            request.identity = identity = gate.identify_request(request)
            query = {name: values for name, values in (request.args or {}).items() if name != PARAMETER.encode()}
            arguments = operation.arguments(in_path, query)
            if not operation.may(identity, arguments):
                raise gate.refuse(identity, "the token does not allow this")
            if operation.tells_what_is_said and moderator is not None:
                check_entry(moderator, arguments.get("room", 0), identity.user_id, request.client_ip)
            if operation.wants_request or operation.body is not None:
                arguments["request"] = request
            answer = operation.seen_by(identity, await limit.run(lambda: operation.handler(**arguments)))
        except CancelledError:
            raise  # the client is gone
        except Exception as error:
            refused = _refusal(operation, error)
            return json_response(request, refused.status, operation.refusal(refused), refused.headers)
        links = [f'<{url}>; rel="{name}"' for name, url in operation.links(answer).items() if url]
        return json_response(request, operation.status, answer, {"link": ", ".join(links)} if links else {})

    return respond


def _refusal(operation: Operation, error: Exception) -> RequestRefused:
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, Unavailable):
        _log.warn("{name} is not available: {reason}", name=operation.name, reason=str(error))
        return unavailable("the database does not answer in time: try again in a moment")
    _log.failure("{name} failed", Failure(error), name=operation.name)
    return RequestRefused(500, "internal_error", INTERNAL_ERROR)


# https://spec.openapis.org/oas/v3.1.0#security-scheme-object
_SECURITY_SCHEMES = {
    "user": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Who asks, where the server has --auth jwt. Also as the parameter access_token of the query.",
    },
    "operator": {"type": "http", "scheme": "bearer", "description": "A line of the server's --admin-token-file."},
    "operatorInBrowser": {"type": "http", "scheme": "basic", "description": "The same as password; any user name."},
}


class OpenApi:
    """The OpenAPI 3.1 document of some operations. https://spec.openapis.org/oas/v3.1.0"""

    def __init__(self, version: str, operations: Sequence[Operation], gate: Gate) -> None:
        types = [kind for each in operations for kind in (each.answer, each.error, each.body or each.answer)]
        schemas, self._components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        self._version = version
        self._paths: dict[str, dict[str, Any]] = {}
        self._components = _ecma_patterns(self._components)
        for operation, answer, error, body in zip(operations, schemas[::3], schemas[1::3], schemas[2::3], strict=True):
            described = _describe(operation, answer, error)
            if gate.asks_operators:
                schemes = (
                    ("user", "operator", "operatorInBrowser") if gate.asks_users else ("operator", "operatorInBrowser")
                )
                described["security"] = [{scheme: []} for scheme in schemes]
                for status in ("401", "403"):
                    described["responses"][status] = _response(HTTPStatus(int(status)).phrase, error)
            if operation.body is not None:
                described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
            self._paths.setdefault(operation.path, {})[operation.method.lower()] = described

    def document(self) -> dict[str, Any]:
        """The OpenAPI document, of plain dictionaries and lists."""
        return {
            "openapi": "3.1.0",
            "info": {"title": "ChatFlow", "version": self._version},
            "paths": self._paths,
            "components": {"schemas": self._components, "securitySchemes": _SECURITY_SCHEMES},
        }


def _describe(operation: Operation, answer: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, Any]:
    statuses = {"400", "500", "503"} | {str(parameter.status) for parameter in operation.parameters}
    statuses |= {str(status) for status in operation.statuses}
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            {
                "name": parameter.name,
                "in": "path" if parameter.in_path else "query",
                "required": parameter.in_path or parameter.required,
                "description": parameter.help,
                "schema": dict(parameter.schema),
            }
            for parameter in operation.parameters
        ]
        + [
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": help,
                "schema": dict(operation.header_schema),
            }
            for name, help in operation.headers.items()
        ],
        "responses": {str(operation.status): _response("The answer", answer)}
        | {status: _response(HTTPStatus(int(status)).phrase, error) for status in sorted(statuses)},
    }


def _response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": dict(schema)}}}


def _ecma_patterns(schema: Any) -> Any:
    """The same schema with patterns of JavaScript, as JSON Schema has them: its ``$`` is Python's ``\\Z``."""
    if isinstance(schema, list):
        return [_ecma_patterns(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _ecma_patterns(inner) for name, inner in schema.items() if name != DESCRIBED_PATTERN}
    pattern = schema.get(DESCRIBED_PATTERN, schema.get("pattern"))
    return found | {"pattern": pattern.replace(r"\Z", "$")} if isinstance(pattern, str) else found
