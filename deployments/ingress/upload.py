"""How large a request body may be, as OpenAI counts it (the whole multipart body, not the file alone), and how slow.

And a decent end for every request that is answered before its body was read, for whatever reason.
"""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.exceptions import UploadTimeout, UploadTooLarge

LINGER_S = 5.0
"""Seconds for which the rest of a refused upload is read and thrown away (nginx: `lingering_close`)."""
MIN_BYTES_PER_S = 1000
"""What an upload must bring on average. Whoever uploads while they speak sends more, even in 12 kbit/s of Opus."""


class UploadLimitMiddleware:
    """Raises `UploadTooLarge` or `UploadTimeout` in whoever reads a body that is too large or too slow.

    A declared length over the limit is refused before the first byte is read; a body without a length, or with one that
    lies, is refused at the chunk that goes over the limit.

    Args:
        app: the application to wrap.
        max_bytes: largest size.
        stall_s: seconds for which nothing may come, see `_Patience`.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, stall_s: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = _LimitedUpload(scope, self.max_bytes, _Patience(self.stall_s), receive, send)
        await self.app(scope, upload.receive, upload.send)


class _Patience:
    """How long one upload is waited for.

    Nothing may come for `stall_s` seconds. Waiting may take as long altogether, and a second for every MIN_BYTES_PER_S
    that came, so that no place is held by a byte now and then. What the service does between two chunks does not count.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._read = 0
        self._waited_s = 0.0
        self._silent_s = 0.0

    async def wait_for(self, receive: Receive) -> Message:
        """Return the next message.

        Raises:
            UploadTimeout: it has not come in time.
        """
        clock = asyncio.get_running_loop().time
        began_at = clock()
        try:
            # What is there already is returned without a pause, in which alone this could end, however late it is.
            async with asyncio.timeout(self._left_s) as timer:
                message = await receive()
        except TimeoutError:
            if not timer.expired():  # somebody else's
                raise
            self._note(clock() - began_at, 0)
            raise self._refusal() from None
        self._note(clock() - began_at, len(message.get("body", b"")))
        return message

    @property
    def _left_s(self) -> float:
        return min(self._silence_left_s, self._waiting_left_s)

    @property
    def _silence_left_s(self) -> float:
        return self._stall_s - self._silent_s

    @property
    def _waiting_left_s(self) -> float:
        return self._stall_s + self._read / MIN_BYTES_PER_S - self._waited_s

    def _note(self, waited_s: float, size: int) -> None:
        self._read += size
        self._waited_s += waited_s
        self._silent_s = 0.0 if size else self._silent_s + waited_s

    def _refusal(self) -> UploadTimeout:
        if self._silence_left_s <= self._waiting_left_s:
            problem = f"stalled: nothing came for {self._stall_s:g} seconds"
        else:
            problem = f"is too slow: {self._read} bytes came in {self._waited_s:.3g} seconds"
        return UploadTimeout(f"The upload {problem}. Send the request again.")


class _LimitedUpload:
    """One request: counts what comes in, and ends the connection decently if not all of it was read."""

    def __init__(self, scope: Scope, max_bytes: int, patience: _Patience, receive: Receive, send: Send) -> None:
        self._declared = _content_length(scope)
        self._max_bytes = max_bytes
        self._patience = patience
        self._receive = receive
        self._send = send
        self._read = 0
        self._all_read = not _announces_body(scope)
        self._cut_off = False

    async def receive(self) -> Message:
        if self._declared is not None and self._declared > self._max_bytes:
            self._refuse(self._declared)
        # Once all of it was read, what is waited for is that the client leaves.
        message = await (self._next_message() if self._all_read else self._patience.wait_for(self._next_message))
        if self._read > self._max_bytes:
            self._refuse(self._read)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._all_read:
            self._cut_off = True
            MutableHeaders(scope=message)["connection"] = "close"
        if self._cut_off and message["type"] == "http.response.body" and not message.get("more_body", False):
            # The answer goes out at once, its end only when the client has stopped sending: a server that closes a
            # connection with unread bytes in it resets it, and the client might lose the answer.
            await self._send({**message, "more_body": True})
            await self._discard_rest()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    def _refuse(self, size: int) -> None:
        # OpenAI's wording; it answers with the declared length, too, as the bytes "read".
        raise UploadTooLarge(f"413: Maximum content size limit ({self._max_bytes}) exceeded ({size} bytes read)")

    async def _next_message(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        self._all_read = not message.get("more_body", False)  # true of http.disconnect as well
        return message

    async def _discard_rest(self) -> None:
        # The answer is out: a connection that fails now is nobody's error.
        with suppress(Exception):
            async with asyncio.timeout(LINGER_S):
                while not self._all_read:
                    await self._next_message()


def _announces_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _content_length(scope: Scope) -> int | None:
    """The declared length, or None where it is missing or not a number: the bytes are counted in any case."""
    value = Headers(scope=scope).get("content-length", "")
    # int() takes `1_0`, ` 1` and digits of other scripts; it refuses more than 4,300 of them.
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
