"""Every answer says which request it belongs to and how long it took.

`x-request-id` is what the SDKs show as `_request_id` and in their exceptions; clients quote it, the logs carry it.
"""

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware:
    """Keeps the client's own `x-request-id` where it is safe to repeat, else makes one like OpenAI's.

    Args:
        app: the application to wrap.
        write_header: False where a proxy in front already writes the id that it passed in (Ray Serve's does): with two
            headers a client would read `id, id`.
    """

    def __init__(self, app: ASGIApp, *, write_header: bool = True) -> None:
        self.app = app
        self.write_header = write_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received_at = time.perf_counter()
        request_id = safe_or_new(Headers(scope=scope).get(HEADER, ""))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if self.write_header:
                    headers[HEADER] = request_id
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - received_at)))
            await send(message)

        await self.app(scope, receive, send_with_headers)


def safe_or_new(sent: str) -> str:
    """Return the id that a client sent, if it is one that can be repeated in headers and logs, else a new one."""
    return sent if _SAFE_ID.fullmatch(sent) else f"req_{uuid.uuid4().hex}"
