"""A transcript as server-sent events, while it is being decoded.

Frames are `data:` lines only, as OpenAI's are: the SDK chokes on frames of an event's name or id alone. A comment keeps
proxies from taking a long silence for a dead connection.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.ingress.deadline import Deadline
from deployments.ingress.disconnect import disconnected, stop
from deployments.ingress.errors import explain_error
from deployments.ingress.formats import language_codes, logprobs_of, token_usage, warnings_header, warnings_list
from deployments.observation.requests import CLIENT_GONE, current_record
from deployments.transcription.transcript import Transcript, TranscriptWarning
from deployments.transcription.utterance import Delta

KEEP_ALIVE_S = 15.0
"""Seconds without an event after which a comment is sent; proxies give up after 30 to 60."""
FIRST_EVENT_S = 10.0
"""Seconds for which the first event may decide the status of the answer; then it is 200, and comments follow."""
UNREAD_S = 30.0
"""Seconds for which a client may leave what is sent to it unread once the deadline has come."""
_KEEP_ALIVE = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
_DATA = b"data: "
_DELTA = "transcript.text.delta"

Items = AsyncGenerator[Delta | Transcript, None]


async def open_stream(items: Items, deadline: Deadline, warnings: Sequence[TranscriptWarning]) -> "EventStream":
    """Wait a while for the first item, so that what goes wrong before it is answered as an ordinary HTTP error.

    Args:
        items: any number of `Delta`, then the `Transcript`; closed with the answer, or when this raises.
        deadline: when the answer must be complete. Until this returns it is the caller's to enforce.
        warnings: what there is to say about the request.

    Raises:
        ServiceError: the first thing that `items` did, within `FIRST_EVENT_S`.
    """
    first = asyncio.ensure_future(anext(items))
    try:
        await asyncio.wait((first,), timeout=FIRST_EVENT_S)
        if first.done():
            first.result()
    except BaseException:
        await stop(first)
        await items.aclose()
        raise
    return EventStream(first, items, deadline, warnings)


class EventStream(Response):
    """Sends the events. Whatever ends it (the transcript, an error, the deadline, the client) closes the items."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: "asyncio.Future[Delta | Transcript]",
        items: Items,
        deadline: Deadline,
        warnings: Sequence[TranscriptWarning],
    ) -> None:
        self.status_code = 200
        self.background = None
        # nginx collects an answer before it passes it on, unless told not to.
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **warnings_header(warnings)})
        self._following = first
        self._items = items
        self._deadline = deadline
        self._warnings = warnings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(disconnected(receive))
        frames = self._frames(gone, Request(scope))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for frame in frames:
                await self._send_in_time(send, {"type": "http.response.body", "body": frame, "more_body": True})
            if not gone.done():
                await self._send_in_time(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:  # the server closes the connection of an answer without an end
            current_record().status = CLIENT_GONE
        finally:
            await frames.aclose()
            await stop(self._following)  # a generator cannot be closed while it runs
            await self._items.aclose()
            await stop(gone)

    async def _send_in_time(self, send: Send, message: Message) -> None:
        """Send, to a client that reads.

        Raises:
            TimeoutError: it does not.
        """
        async with asyncio.timeout(max(self._deadline.remaining, 0.0) + UNREAD_S):
            await send(message)

    async def _frames(self, gone: asyncio.Future[None], request: Request) -> AsyncGenerator[bytes, None]:
        try:
            if not self._following.done():
                yield _KEEP_ALIVE
            while True:
                while not await self._any_done(self._following, gone):
                    yield _KEEP_ALIVE
                if gone.done():
                    return
                item = self._following.result()
                yield self._event(item)
                if isinstance(item, Transcript):
                    break
                self._following = asyncio.ensure_future(anext(self._items))
            yield _DONE
        except Exception as error:
            rule, body = explain_error(request, error)
            current_record().status = rule.status
            yield _frame(body)

    async def _any_done(self, *futures: asyncio.Future) -> bool:
        """Wait for one of them; False when it is time for a sign of life.

        Raises:
            DeadlineExceeded: the deadline has come.
        """
        remaining = max(0.0, self._deadline.remaining)
        done, _ = await asyncio.wait(futures, timeout=min(KEEP_ALIVE_S, remaining), return_when=asyncio.FIRST_COMPLETED)
        if not done and remaining <= KEEP_ALIVE_S:
            raise self._deadline.exceeded()
        return bool(done)

    def _event(self, item: Delta | Transcript) -> bytes:
        if isinstance(item, Delta):
            return delta_event(item)
        return _frame(
            {
                "type": "transcript.text.done",
                "text": item.text,
                "languages": language_codes(item),
                **logprobs_of(item.tokens),
                "usage": token_usage(item),
                **warnings_list((*self._warnings, *item.warnings)),
            }
        )


def delta_event(delta: Delta) -> bytes:
    """The event that goes on with the text."""
    return _frame({"type": _DELTA, "delta": delta.text, **logprobs_of(delta.tokens)})


def text_of_delta(event: bytes) -> str | None:
    """What an event goes on with; None where it is no delta."""
    try:
        content = json.loads(event.removeprefix(_DATA))
    except ValueError:  # `[DONE]` is no JSON
        return None
    return content["delta"] if isinstance(content, dict) and content.get("type") == _DELTA else None


def error_event(request: Request, error: Exception) -> bytes:
    """The last event of a stream that breaks off."""
    _, body = explain_error(request, error)
    return _frame(body)


def _frame(content: dict) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
