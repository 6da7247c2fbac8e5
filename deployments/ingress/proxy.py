"""What surrounds the application in Ray Serve's HTTP proxy: there alone can be changed what Serve itself answers.

Serve calls `middleware` in each of its proxies if their environment, which is that of `ray start` or `serve run`, has

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.ingress.proxy:middleware
"""

import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.exceptions import DeadlineExceeded, ServiceUnavailable, TooManyRequests
from deployments.ingress.errors import answer_error
from deployments.ingress.malloc import return_freed_memory
from deployments.ingress.replay import KeptBody, Room
from deployments.ingress.request_age import AGE_HEADER
from deployments.ingress.request_id import HEADER, safe_or_new
from deployments.ingress.retelling import Retelling
from deployments.ingress.stream import error_event

logger = logging.getLogger("ray.serve.asr")

SERVES_OWN = "/-/"
"""Paths of Serve's own, such as `/-/healthz`."""
TRANSCRIPTIONS = "/audio/transcriptions"
"""How the paths end that can be posted to twice: transcribing twice does no harm."""
MAX_KEPT_BYTES = 256 * 2**20
"""Bodies that one proxy keeps at a time until they are answered. What is beyond is not sent to a second replica."""
EVENT_STREAM = "text/event-stream"
TIMEOUT_HEADER = "x-request-timeout-seconds"
"""How a client has Serve's proxy give a request up."""
COMMENT = b":"
"""How a sign of life begins, which is no event."""


def middleware() -> list[Middleware]:
    """Called by Serve, in the process of its proxy: what it puts around everything."""
    return_freed_memory()  # of the bodies that are kept
    return [Middleware(ProxyMiddleware)]


class ProxyMiddleware:
    """Gives every request a safe `x-request-id`, and what Serve answers in plain text OpenAI's envelope.

    Serve repeats the id that a client sent as it is, and fails where it is not UTF-8.

    A request whose ingress replica dies is handed to another one, from which a stream that has begun goes on. Where
    that cannot be, because it is too large, the next one dies as well or does not tell the same, the client learns that
    it should try again: by a 503, or by the last event of its stream.
    """

    def __init__(self, app: ASGIApp, *, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self.app = app
        self._room = Room(max_kept_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(SERVES_OWN):
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        headers[HEADER] = safe_or_new(headers.get(HEADER, ""))
        del headers[AGE_HEADER]
        began_at = time.monotonic()
        body = KeptBody(receive, self._room)
        answer = _Answer(scope, receive, send, on_settled=body.drop)
        try:
            await self._pass_on(scope, body, answer)
            if _is_over(headers, began_at):  # Serve has given it up, and says nothing where a stream has begun
                await self._end(body, answer, _too_long())
            elif not answer.is_settled and not body.has_left and body.is_kept and _is_repeatable(scope):
                logger.warning("the ingress replica of request %s has died, trying another", headers[HEADER])
                headers[AGE_HEADER] = f"{time.monotonic() - began_at:.3f}"
                answer.begin_again()
                await self._pass_on(scope, body, answer)
            await self._end(body, answer, _lost())
        finally:
            body.drop()

    async def _end(self, body: KeptBody, answer: "_Answer", error: Exception) -> None:
        if not answer.is_settled and not body.has_left:
            await answer.give_up(error)

    async def _pass_on(self, scope: Scope, body: KeptBody, answer: "_Answer") -> None:
        try:
            await self.app(dict(scope), body.receiver(), answer.send)
        except Exception as error:
            if answer.is_started:  # too late for another answer: the server must cut the connection
                raise
            await answer.replace(error)


class _Answer:
    """What goes back to the client of one request.

    Args:
        scope, receive, send: of the request.
        on_settled: called when no other replica could change it any more.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, on_settled: Callable[[], None]) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._on_settled = on_settled
        self._told: list[bytes] = []
        """Events of a stream."""
        self._again = Retelling()
        """What the next replica must tell before it tells anything new."""
        self._ignored = False
        """Whether what still comes is of no use."""
        self.is_started = False
        self.is_settled = False
        """Whether it has ended, or begun and is no stream: cut off, it is the server's to close the connection."""

    async def send(self, message: Message) -> None:
        """Send on what the application says, or the envelope in place of what Serve does."""
        if self._ignored:
            return
        if message["type"] != "http.response.start":
            await self._go_on(message)
        elif self.is_started:
            self._ignored = not _is_stream(message)
        elif _is_serves(message):
            await self.replace(_meaning_of(message["status"]))
        else:
            self.is_started = True
            if not _is_stream(message):
                self._settle()
            await self._send(message)

    def begin_again(self) -> None:
        """Expect all of it from another replica."""
        self._again = Retelling(self._told)

    async def replace(self, error: Exception) -> None:
        """Answer with an error, in place of whatever may come."""
        self.is_started = self._ignored = True
        self._settle()
        response = await answer_error(self._request, error)
        response.headers[HEADER] = Headers(scope=self._scope)[HEADER]
        await response(self._scope, self._receive, self._send)

    async def give_up(self, error: Exception) -> None:
        """End it with an error, whether or not it has begun."""
        if self.is_started:
            self._ignored = True
            self._settle()
            event = error_event(self._request, error)
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
        else:
            await self.replace(error)

    async def _go_on(self, message: Message) -> None:
        content, is_last = message.get("body", b""), not message.get("more_body", False)
        is_event = bool(content) and not content.startswith(COMMENT)
        if self._again.is_due and (is_event or is_last):
            new = None if is_last else self._again.new_in(content)
            if new is None:
                await self.give_up(_lost())
            if not new:
                return
            content, message = new, {**message, "body": new}
        if is_event and not self.is_settled:
            self._told.append(content)
        if is_last:
            self._settle()
        await self._send(message)

    @property
    def _request(self) -> Request:
        return Request({**self._scope, "state": {"request_id": Headers(scope=self._scope)[HEADER]}})

    def _settle(self) -> None:
        self.is_settled = True
        self._on_settled()


def _is_over(headers: Headers, began_at: float) -> bool:
    """Whether the client's own limit has passed."""
    try:
        return time.monotonic() - began_at >= float(headers.get(TIMEOUT_HEADER, "inf"))
    except ValueError:  # Serve does not heed it either
        return False


def _lost() -> ServiceUnavailable:
    return ServiceUnavailable("The service lost this request. Try again in a moment.")


def _too_long() -> DeadlineExceeded:
    return DeadlineExceeded("The request took longer than this server allows. Send a shorter recording.")


def _is_stream(start: Message) -> bool:
    return Headers(raw=list(start["headers"])).get("content-type", "").startswith(EVENT_STREAM)


def _is_repeatable(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") or scope["path"].endswith(TRANSCRIPTIONS)


def _is_serves(start: Message) -> bool:
    """Whether it is an error in plain text, which the application never answers."""
    kind = Headers(raw=list(start["headers"])).get("content-type", "")
    return start["status"] >= 400 and kind.startswith("text/plain")


def _meaning_of(status: int) -> Exception:
    match status:
        case 404:  # the application has the route `/`: where nothing has it, it is not there
            return ServiceUnavailable("The service is starting. Try again in a moment.")
        case 408:
            return _too_long()
        case 429:
            return TooManyRequests("The service is at its capacity. Try again in a moment.")
        case 503:
            return ServiceUnavailable("The service is at its capacity. Try again in a moment.")
        case _:
            return RuntimeError(f"Ray Serve answered with {status}")
