"""A steady load through OpenAI's SDK, and what became of each of its requests."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import httpx2  # what the SDK is built on
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
        ports: where the proxies of the service listen; each try goes to the next, as behind a load balancer that does
            not look after them.
        model: sent as `model`.
        recordings: what is sent, over and over.
        rate: calls a second.
    """

    def __init__(self, ports: Sequence[int], model: str, recordings: Sequence[Recording], *, rate: float = 1.0):
        self._model = model
        self._recordings = recordings
        self._rate = rate
        self.calls: list[Call] = []
        self._open: list[asyncio.Task[None]] = []
        self._sdk = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{ports[0]}/v1",
            api_key="none",
            timeout=TIMEOUT_S,
            http_client=httpx2.AsyncClient(transport=_Noting(ports), trust_env=False),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the context lasts; when it ends, wait for every call that is open."""
        sending = asyncio.create_task(self._send_for_ever())
        try:
            yield
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            await self._end()

    async def burst(self, meanwhile: Callable[[], None], after_s: float) -> None:
        """Send every recording once, all at a time, do something when they are on their way, and wait for them."""
        for number, recording in enumerate(self._recordings):
            self._send(number, recording)
        await asyncio.sleep(after_s)
        meanwhile()
        await self._end()

    async def _send_for_ever(self) -> None:
        began_at = time.monotonic()
        for number, recording in enumerate(itertools.cycle(self._recordings)):
            await asyncio.sleep(began_at + number / self._rate - time.monotonic())
            self._send(number, recording)

    def _send(self, number: int, recording: Recording) -> None:
        call = Call(recording, number % STREAMED == 0, time.monotonic())
        self.calls.append(call)
        self._open.append(asyncio.create_task(self._carry_out(call)))

    async def _end(self) -> None:
        await asyncio.gather(*self._open)
        await self._sdk.close()

    async def _carry_out(self, call: Call) -> None:
        _tries.set(call.tries)
        try:
            call.said = await (self._streamed(call) if call.stream else self._whole(call))
            call.end = "right" if is_right(call.recording, call.said) else "wrong"
        except openai.APITimeoutError as error:
            call.end, call.said = "hung", repr(error)
        except (openai.APIError, httpx2.HTTPError) as error:
            call.end, call.said = "lost", repr(error)
        call.ended_at = time.monotonic()

    async def _whole(self, call: Call) -> str:
        answer = await self._sdk.audio.transcriptions.create(
            model=self._model, file=call.recording.path, response_format="json"
        )
        return answer.text

    async def _streamed(self, call: Call) -> str:
        events = await self._sdk.audio.transcriptions.create(model=self._model, file=call.recording.path, stream=True)
        told, meant = "", None
        async for event in events:  # to the end: a stream that is left keeps its connection
            if event.type == "transcript.text.delta":
                told += event.delta
            if event.type == "transcript.text.done":
                meant = event.text
        return told if told == meant else f"{told!r} was told, {meant!r} meant"


class _Noting(httpx2.AsyncBaseTransport):
    """Sends each try to the next port, and notes for its call what it brought, unless that is an answer."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._below = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None))
        self._ports = itertools.cycle(ports)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.url = request.url.copy_with(port=next(self._ports))
        try:
            response = await self._below.handle_async_request(request)
        except httpx2.HTTPError as error:
            _tries.get().append(type(error).__name__)
            raise
        if response.status_code != 200:
            shaped = response.headers.get("content-type", "").startswith("application/json")
            _tries.get().append(f"{response.status_code}{'' if shaped else ' without an envelope'}")
        return response

    async def aclose(self) -> None:
        await self._below.aclose()


def is_right(recording: Recording, text: str) -> bool:
    """Whether a text has the words of a recording."""
    pair = scoring.Pair(recording.text, text, recording.language)
    return scoring.error_rate([pair]) == 0


def failed_tries(calls: Sequence[Call]) -> Counter[str]:
    """How often each kind of failure was seen, the SDK's retries among the tries."""
    return Counter(failure for call in calls for failure in call.tries)


def longest_silence(calls: Sequence[Call], since: float) -> float:
    """The most seconds between two right answers from `since` on."""
    answered = sorted(call.ended_at for call in calls if call.end == "right" and call.ended_at > since)
    return max((after - before for before, after in itertools.pairwise([since, *answered])), default=0.0)
