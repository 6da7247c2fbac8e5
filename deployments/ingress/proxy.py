"""What surrounds the application in Ray Serve's HTTP proxy: there alone can be changed what Serve itself answers.

Serve calls `middleware` in each of its proxies if their environment, which is that of `ray start` or `serve run`, has

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.ingress.proxy:middleware
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.exceptions import DeadlineExceeded, ServiceUnavailable, TooManyRequests
from deployments.ingress.errors import answer_error
from deployments.ingress.request_id import HEADER, safe_or_new

SERVES_OWN = "/-/"
"""Paths of Serve's own, such as `/-/healthz`."""


def middleware() -> list[Middleware]:
    """Called by Serve: what its proxy puts around everything."""
    return [Middleware(ProxyMiddleware)]


class ProxyMiddleware:
    """Gives every request a safe `x-request-id`, and what Serve answers in plain text OpenAI's envelope.

    Serve repeats the id that a client sent as it is, and fails where it is not UTF-8.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(SERVES_OWN):
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        request_id = headers[HEADER] = safe_or_new(headers.get(HEADER, ""))
        is_started = is_replaced = False

        async def answer(error: Exception) -> None:
            request = Request({**scope, "state": {"request_id": request_id}})
            response = await answer_error(request, error)
            response.headers[HEADER] = request_id
            await response(scope, receive, send)

        async def replacing(message: Message) -> None:
            nonlocal is_started, is_replaced
            if is_replaced:
                return  # the body of what was replaced
            if message["type"] == "http.response.start":
                is_started = True
                if is_replaced := _is_serves(message):
                    await answer(_meaning_of(message["status"]))
                    return
            await send(message)

        try:
            await self.app(scope, receive, replacing)
        except Exception as error:
            if is_started:  # too late for another answer: the server must cut the connection
                raise
            await answer(error)


def _is_serves(start: Message) -> bool:
    """Whether it is an error in plain text, which the application never answers."""
    kind = Headers(raw=list(start["headers"])).get("content-type", "")
    return start["status"] >= 400 and kind.startswith("text/plain")


def _meaning_of(status: int) -> Exception:
    match status:
        case 404:  # the application has the route `/`: where nothing has it, it is not there
            return ServiceUnavailable("The service is starting. Try again in a moment.")
        case 408:
            return DeadlineExceeded("The request took longer than this server allows. Send a shorter recording.")
        case 429:
            return TooManyRequests("The service is at its capacity. Try again in a moment.")
        case 503:
            return ServiceUnavailable("The service is at its capacity. Try again in a moment.")
        case _:
            return RuntimeError(f"Ray Serve answered with {status}")
