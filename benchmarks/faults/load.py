"""A steady load through OpenAI's SDK, and what became of each of its requests."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import httpx
import openai

from benchmarks import scoring
from benchmarks.datasets import Recording

TIMEOUT_S = 90.0
"""Of one try; longer than the service's deadline, so that whoever runs into it was left hanging."""
STREAMED = 3
"""One request in so many is streamed."""

End = Literal["right", "wrong", "lost", "hung"]

_tries: ContextVar[list[str]] = ContextVar("tries")
"""Of the call that this task carries out."""


@dataclass
class Call:
    """One request of a user, with all tries that the SDK made of it."""

    recording: Recording
    stream: bool
    sent_at: float
    """On the monotonic clock, as all times here."""
    ended_at: float = 0.0
    end: End = "lost"
    tries: list[str] = field(default_factory=list)
    """What each try but the last brought, and the last where it failed: a status or the name of an error."""
    said: str = ""
    """The text, or the error that the user is left with."""

    @property
    def took_s(self) -> float:
        """Seconds until its end."""
        return self.ended_at - self.sent_at


class Load:
    """Sends one recording after the other, `rate` a second, whether or not answers come.

    Args:
        url: where the service is.
        model: sent as `model`.
        recordings: what is sent, over and over.
        rate: calls a second.
    """

    def __init__(self, url: str, model: str, recordings: Sequence[Recording], *, rate: float):
        self._model = model
        self._recordings = recordings
        self._interval_s = 1 / rate
        self.calls: list[Call] = []
        self._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))
        self._sdk = openai.AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key="none",
            timeout=TIMEOUT_S,
            http_client=httpx.AsyncClient(transport=_Noting(self._transport), trust_env=False),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the context lasts; when it ends, wait for every call that is open."""
        sending = asyncio.create_task(self._send())
        try:
            yield
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            await asyncio.gather(*self._open)
            await self._sdk.close()

    async def _send(self) -> None:
        self._open: list[asyncio.Task[None]] = []
        began_at = time.monotonic()
        for number, recording in enumerate(itertools.cycle(self._recordings)):
            await asyncio.sleep(began_at + number * self._interval_s - time.monotonic())
            call = Call(recording, number % STREAMED == 0, time.monotonic())
            self.calls.append(call)
            self._open.append(asyncio.create_task(self._carry_out(call)))

    async def _carry_out(self, call: Call) -> None:
        _tries.set(call.tries)
        try:
            call.said = await (self._streamed(call) if call.stream else self._whole(call))
            call.end = "right" if _is_right(call) else "wrong"
        except openai.APITimeoutError as error:
            call.end, call.said = "hung", repr(error)
        except (openai.APIError, httpx.HTTPError) as error:
            call.end, call.said = "lost", repr(error)
        call.ended_at = time.monotonic()

    async def _whole(self, call: Call) -> str:
        answer = await self._sdk.audio.transcriptions.create(
            model=self._model, file=call.recording.path, response_format="json"
        )
        return answer.text

    async def _streamed(self, call: Call) -> str:
        events = await self._sdk.audio.transcriptions.create(model=self._model, file=call.recording.path, stream=True)
        told = ""
        async for event in events:
            if event.type == "transcript.text.delta":
                told += event.delta
            if event.type == "transcript.text.done":
                return event.text if event.text == told else f"{told!r} was told, {event.text!r} meant"
        return f"{told!r} and no end"


class _Noting(httpx.AsyncBaseTransport):
    """Notes for each call what its tries brought, unless that is an answer."""

    def __init__(self, below: httpx.AsyncBaseTransport) -> None:
        self._below = below

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._below.handle_async_request(request)
        except httpx.HTTPError as error:
            _tries.get().append(type(error).__name__)
            raise
        if response.status_code != 200:
            shaped = response.headers.get("content-type", "").startswith("application/json")
            _tries.get().append(f"{response.status_code}{'' if shaped else ' without an envelope'}")
        return response

    async def aclose(self) -> None:
        await self._below.aclose()


def _is_right(call: Call) -> bool:
    pair = scoring.Pair(call.recording.text, call.said, call.recording.language)
    return scoring.error_rate([pair]) == 0


def failed_tries(calls: Sequence[Call]) -> Counter[str]:
    """How often each kind of failure was seen, the SDK's retries among the tries."""
    return Counter(failure for call in calls for failure in call.tries)


def longest_silence(calls: Sequence[Call], since: float) -> float:
    """The most seconds between two right answers from `since` on."""
    answered = sorted(call.ended_at for call in calls if call.end == "right" and call.ended_at > since)
    return max((after - before for before, after in itertools.pairwise([since, *answered])), default=0.0)
