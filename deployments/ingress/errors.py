"""From exception to HTTP: the one table of statuses, in OpenAI's error envelope.

The SDKs choose their exception class by status and read `message`, `type`, `param` and `code` from the envelope, so all
four are always there. They retry 408, 429 and 5xx twice, with the whole upload: `x-should-retry: false` stops them
where the same recording would fail again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.exceptions import (
    DeadlineExceeded,
    EngineFailure,
    InvalidRequest,
    ServiceError,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
    UnknownModel,
    UploadTimeout,
    UploadTooLarge,
)

# Serve configures the "ray.serve" loggers of a replica, so a child of it ends up in the replica's own log file.
logger = logging.getLogger("ray.serve.asr")

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
_MAX_PATH_CHARS = 200


@dataclass(frozen=True)
class ErrorRule:
    """How one class of exceptions is answered."""

    status: int
    type: str
    headers: Mapping[str, str] = field(default_factory=dict)


# Looked up along the method resolution order: a subclass (InvalidAudio is an InvalidRequest, Ray's RayTaskError(X) is
# an X) is answered as its nearest base that stands here.
RULES: Mapping[type, ErrorRule] = {
    InvalidRequest: ErrorRule(400, INVALID_REQUEST),
    Unauthenticated: ErrorRule(401, INVALID_REQUEST, {"www-authenticate": 'Bearer realm="OpenAI API"'}),
    UnknownModel: ErrorRule(404, INVALID_REQUEST),
    UploadTimeout: ErrorRule(408, INVALID_REQUEST),
    UploadTooLarge: ErrorRule(413, INVALID_REQUEST),
    EngineFailure: ErrorRule(500, SERVER_ERROR, {"x-should-retry": "false"}),
    TooManyRequests: ErrorRule(429, "requests"),
    ServiceUnavailable: ErrorRule(503, "service_unavailable_error"),
    DeadlineExceeded: ErrorRule(504, SERVER_ERROR, {"x-should-retry": "false"}),
    Exception: ErrorRule(500, SERVER_ERROR),
}


def envelope(message: str, *, type: str, param: str | None = None, code: str | None = None) -> dict:  # noqa: A002
    """OpenAI's error body."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer any exception. What the service did not raise on purpose is logged, and told to nobody."""
    if isinstance(error, HTTPException):
        return _answer_http_exception(request, error)
    if isinstance(error, RequestValidationError):
        # No route declares parameters that FastAPI could find invalid; should one ever do, 422 is not in the contract.
        error = InvalidRequest("The request is not valid.")
    rule, body = explain_error(request, error)
    headers = dict(rule.headers)
    if isinstance(error, ServiceUnavailable):
        headers |= {"retry-after": str(error.retry_after_s), "retry-after-ms": str(1000 * error.retry_after_s)}
    return JSONResponse(body, rule.status, headers)


def explain_error(request: Request, error: Exception) -> tuple[ErrorRule, dict]:
    """Return how `error` is answered and the body that tells it; log what is the service's own fault."""
    rule = next(RULES[base] for base in type(error).__mro__ if base in RULES)
    if rule.status == 500:
        logger.error("%s failed", _describe(request), exc_info=error)
    elif rule.status > 500 or rule.status == 429:
        logger.warning("%s answered with %d: %s", _describe(request), rule.status, error)
    if isinstance(error, ServiceError):
        return rule, envelope(error.message, type=rule.type, param=error.param, code=error.code)
    message = "The server had an error while processing your request."
    return rule, envelope(message, type=rule.type, code="internal_error")


def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    """Starlette's own: no such route (404), no such method on it (405)."""
    target = f"({request.method} {request.scope['path'][:_MAX_PATH_CHARS]})"
    message, code, headers = error.detail, None, error.headers
    if error.status_code == 404:
        message = f"Invalid URL {target}"
    elif error.status_code == 405:
        message, code = f"Invalid method for URL {target}", "method_not_supported"
        headers = {"allow": ", ".join(_methods_of(request))}
    body = envelope(message, type=INVALID_REQUEST if error.status_code < 500 else SERVER_ERROR, code=code)
    return JSONResponse(body, error.status_code, headers)


def _methods_of(request: Request) -> list[str]:
    """What the path of `request` can be asked for with; Starlette names the methods of one of its routes only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in route.methods or ()})


def _describe(request: Request) -> str:
    who = f"request {getattr(request.state, 'request_id', '-')}"
    if hasattr(request.state, "api_key_name"):
        who += f", key {request.state.api_key_name}"
    return f"{request.method} {request.scope['path'][:_MAX_PATH_CHARS]!r} ({who})"


class ErrorMiddleware:
    """Answers what no exception handler of the app took.

    A handler for `Exception` would run in Starlette's outermost middleware, outside of the one that writes the request
    id, and would raise again after it answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting_start)
        except Exception as error:
            if started:  # too late for another status: the server must cut the connection
                raise
            response = await answer_error(Request(scope), error)
            await response(scope, receive, send)
