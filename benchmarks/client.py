"""Clips sent to any OpenAI-compatible transcription service, in a closed loop or as Poisson arrivals, and the times.

What fails is counted, with its reason; statistics are of the answered requests alone.
"""

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp

TIMEOUT_S = 600
LONGEST_LINE = 1 << 22
"""Bytes of an event: the last one of a stream holds the whole text."""


@dataclass(frozen=True)
class Clip:
    """One upload and what is asked of it."""

    upload: bytes
    seconds: float
    name: str = "clip.wav"
    """File name of the upload; some services go by its ending."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Form fields of this request alone, beside the model."""


@dataclass(frozen=True)
class Exchange:
    """A clip and what came back."""

    clip: Clip
    latency_s: float
    """Until the whole answer, or the error, was there."""
    text: str | None
    """None where it failed."""
    error: str | None = None
    first_s: float | None = None
    """Until the first words of a stream were there."""


@dataclass(frozen=True)
class Run:
    """All exchanges of one load, in the order of its clips."""

    exchanges: Sequence[Exchange]
    took_s: float
    """From the first request to the last answer."""


@dataclass(frozen=True)
class Statistics:
    """One load in figures. Means, percentiles and rates are of answered requests, None where there are none.

    `rtf` is the real-time factor: latency over the seconds of audio.
    """

    requests: int
    failed: int
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    rtf_mean: float | None
    rtf_p95: float | None
    requests_per_s: float
    audio_s_per_s: float

    @classmethod
    def of(cls, run: Run) -> "Statistics":
        """Sum up a run."""
        answered = [exchange for exchange in run.exchanges if exchange.error is None]
        latencies = [exchange.latency_s for exchange in answered]
        factors = [exchange.latency_s / exchange.clip.seconds for exchange in answered]
        return cls(
            requests=len(run.exchanges),
            failed=len(run.exchanges) - len(answered),
            mean_s=statistics.mean(latencies) if latencies else None,
            p50_s=percentile(latencies, 50),
            p95_s=percentile(latencies, 95),
            rtf_mean=statistics.mean(factors) if factors else None,
            rtf_p95=percentile(factors, 95),
            requests_per_s=len(answered) / run.took_s,
            audio_s_per_s=sum(exchange.clip.seconds for exchange in answered) / run.took_s,
        )


class Client:
    """Sends clips and keeps the time, between being entered and left as a context manager.

    Args:
        url: what OpenAI's SDK calls the base URL, such as `http://127.0.0.1:8000/v1`.
        model: sent as `model`; by default the first one that the service lists.
        api_key: sent as bearer token.
        fields: further form fields of every request. With `stream=true` among them, or in a clip's, the answer is read
            as events.
        timeout_s: how long a service may be silent.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        api_key: str = "none",
        fields: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ):
        self._url = url.rstrip("/")
        self._model = model
        self._fields = dict(fields or {})
        self._api_key = api_key
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        # aiohttp and not httpx, whose pool takes 20 ms a request where a hundred are open. It leaves the proxy alone
        # that the environment may name, which would be measured with the service.
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._api_key}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=self._timeout_s),
            connector=aiohttp.TCPConnector(limit=0),
            read_bufsize=LONGEST_LINE,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.close()

    async def model(self) -> str:
        """The model that is asked for.

        Raises:
            aiohttp.ClientError: none was given and the service lists none.
        """
        if self._model is None:
            async with self._http.get(f"{self._url}/models", raise_for_status=True) as response:
                self._model = str((await response.json())["data"][0]["id"])
        return self._model

    async def transcribe(self, clip: Clip) -> Exchange:
        """Send one clip; never raises for what the service or the network does."""
        form = aiohttp.FormData({"model": await self.model(), **self._fields, **clip.fields})
        form.add_field("file", clip.upload, filename=clip.name, content_type="application/octet-stream")
        started = time.perf_counter()
        first_s = None
        try:
            async with self._http.post(f"{self._url}/audio/transcriptions", data=form) as response:
                if response.content_type == "text/event-stream":
                    text, error, first_at = await _read_events(response)
                    first_s = first_at - started if first_at is not None else None
                else:
                    text, error = _read(response.status, await response.text(errors="replace"))
        except (aiohttp.ClientError, TimeoutError) as failure:
            text, error = None, f"{type(failure).__name__} {failure}".strip()
        return Exchange(clip, time.perf_counter() - started, text, error, first_s)


def _read(status: int, body: str) -> tuple[str | None, str | None]:
    """The text of an answer, or what is wrong with it."""
    if status != 200:
        return None, f"{status} {' '.join(body.split())[:200]}"
    try:
        return str(json.loads(body)["text"]), None
    except (ValueError, KeyError, TypeError):
        return None, f"200 without a text: {body[:200]}"


async def _read_events(response: aiohttp.ClientResponse) -> tuple[str | None, str | None, float | None]:
    """The text of a stream, or what is wrong with it; and when its first words came."""
    first_at = None
    async for line in response.content:
        if not line.startswith(b"data: ") or line.rstrip() == b"data: [DONE]":
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            return None, f"200, then {event['error'].get('message')}", first_at
        if event["type"].endswith(".delta"):
            first_at = first_at or time.perf_counter()
        elif event["type"].endswith(".done"):
            return str(event["text"]), None, first_at
    return None, "200, then a stream without an end", first_at


async def closed_loop(client: Client, clips: Sequence[Clip], concurrency: int) -> Run:
    """Send all clips, with `concurrency` requests open at all times."""
    await client.model()
    waiting = iter(enumerate(clips))
    exchanges: dict[int, Exchange] = {}

    async def work() -> None:
        for index, clip in waiting:
            exchanges[index] = await client.transcribe(clip)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return Run([exchanges[index] for index in range(len(clips))], time.perf_counter() - started)


async def poisson(client: Client, clips: Sequence[Clip], rate: float, rng: random.Random) -> Run:
    """Send each clip at its time, `rate` a second on average, whether or not the service keeps up."""
    await client.model()

    async def arrive(clip: Clip, at: float) -> Exchange:
        await asyncio.sleep(at)
        return await client.transcribe(clip)

    times: list[float] = []
    for _ in clips:
        times.append((times[-1] if times else 0.0) + rng.expovariate(rate))
    started = time.perf_counter()
    exchanges = await asyncio.gather(*(arrive(clip, at) for clip, at in zip(clips, times, strict=True)))
    return Run(exchanges, time.perf_counter() - started)


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The value that `percent` of them do not exceed, interpolated between neighbours; None of none."""
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def failures(runs: Iterable[Run]) -> list[str]:
    """One line for each reason that requests failed for, the commonest first."""
    reasons = Counter(exchange.error for run in runs for exchange in run.exchanges if exchange.error is not None)
    return [f"{count} failed: {reason}" for reason, count in reasons.most_common()]
