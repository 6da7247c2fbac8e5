"""Load on any OpenAI-compatible transcription service: closed loop or Poisson arrivals, distinct clips, over HTTP.

    python -m benchmarks.load --url http://127.0.0.1:8000/v1 --model qwen3-asr-demo --concurrency 1 4 8 16
    python -m benchmarks.load --url http://127.0.0.1:8000/v1 --model qwen3-asr-demo --rate 0.5 --seconds 2 12

A closed loop keeps that many requests open at all times; Poisson arrivals come at `--rate` a second whether or not the
service keeps up. Clips are noise of different seeds, so no cache helps, unless `--clips` names a folder of recordings.
`--max-new-tokens` fixes the length of the answers of random weights (an extension of ours; others may ignore it).
"""

import argparse
import asyncio
import io
import json
import random
import statistics
import time
import wave
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks import machine

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Clip:
    """One upload and what is asked of it."""

    upload: bytes
    seconds: float
    max_new_tokens: int | None


@dataclass(frozen=True)
class Outcome:
    """What one kind of load gave."""

    load: str
    requests: int
    failed: int
    p50_s: float
    p95_s: float
    requests_per_s: float
    audio_s_per_s: float


class Client:
    """Sends clips and keeps the time."""

    def __init__(self, url: str, model: str, api_key: str):
        self._url = f"{url.rstrip('/')}/audio/transcriptions"
        self._model = model
        self._http = httpx.AsyncClient(
            timeout=600, headers={"Authorization": f"Bearer {api_key}"}, limits=httpx.Limits(max_connections=None)
        )

    async def transcribe(self, clip: Clip) -> float | None:
        """Seconds until the whole answer was there; None where it was an error."""
        fields = {"model": self._model}
        if clip.max_new_tokens:
            fields["max_new_tokens"] = str(clip.max_new_tokens)
        started = time.perf_counter()
        response = await self._http.post(self._url, data=fields, files={"file": ("clip.wav", clip.upload)})
        return time.perf_counter() - started if response.status_code == 200 else None


async def closed_loop(client: Client, clips: list[Clip], concurrency: int) -> Outcome:
    """Send all clips, `concurrency` at a time."""
    waiting = iter(clips)
    latencies: list[float | None] = []

    async def work() -> None:
        for clip in waiting:
            latencies.append(await client.transcribe(clip))

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return _outcome(f"concurrency {concurrency}", clips, latencies, time.perf_counter() - started)


async def poisson(client: Client, clips: list[Clip], rate: float, rng: random.Random) -> Outcome:
    """Send each clip at its time, `rate` a second on average."""

    async def arrive(clip: Clip, at: float) -> float | None:
        await asyncio.sleep(at)
        return await client.transcribe(clip)

    times: list[float] = []
    for _ in clips:
        times.append((times[-1] if times else 0.0) + rng.expovariate(rate))
    started = time.perf_counter()
    latencies = await asyncio.gather(*(arrive(clip, at) for clip, at in zip(clips, times, strict=True)))
    return _outcome(f"Poisson {rate:g}/s", clips, list(latencies), time.perf_counter() - started)


def _outcome(load: str, clips: list[Clip], latencies: list[float | None], took: float) -> Outcome:
    answered = [latency for latency in latencies if latency is not None]
    if len(answered) < 2:
        raise SystemExit(f"{load}: {len(latencies) - len(answered)} of {len(latencies)} requests failed")
    return Outcome(
        load,
        requests=len(latencies),
        failed=len(latencies) - len(answered),
        p50_s=statistics.median(answered),
        p95_s=statistics.quantiles(answered, n=20)[-1],
        requests_per_s=len(answered) / took,
        audio_s_per_s=sum(clip.seconds for clip in clips) / took,
    )


def _noise_clip(seconds: float, max_new_tokens: int | None, seed: int) -> Clip:
    samples = np.random.default_rng(seed).normal(0, 3000, round(seconds * SAMPLE_RATE)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.tobytes())
    return Clip(file.getvalue(), seconds, max_new_tokens)


def _recorded_clips(folder: Path) -> list[Clip]:
    from deployments.audio.decode import decode

    clips = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in {".wav", ".flac", ".mp3", ".ogg", ".m4a"}):
        with path.open("rb") as file:
            seconds = len(decode(file, max_duration_s=3600)) / SAMPLE_RATE
        clips.append(Clip(path.read_bytes(), seconds, None))
    return clips


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--rate", type=float, help="Poisson arrivals a second, in place of the closed loops")
    parser.add_argument("--requests", type=int, default=32, help="for each load")
    parser.add_argument("--seconds", type=float, nargs=2, default=[10.0, 10.0], help="shortest and longest clip")
    parser.add_argument("--max-new-tokens", type=int, nargs=2, default=None, help="fewest and most")
    parser.add_argument("--clips", type=Path, help="folder of recordings to send in place of noise, over and over")
    parser.add_argument("--json", type=Path, help="where to write the figures, with machine and versions")
    return parser


async def _run(arguments: argparse.Namespace) -> list[Outcome]:
    rng = random.Random(0)
    client = Client(arguments.url, arguments.model, arguments.api_key)
    recorded = _recorded_clips(arguments.clips) if arguments.clips else []

    def clips(load: int) -> list[Clip]:
        if recorded:
            return [recorded[i % len(recorded)] for i in range(arguments.requests)]
        tokens = arguments.max_new_tokens
        return [
            _noise_clip(rng.uniform(*arguments.seconds), rng.randint(*tokens) if tokens else None, seed=1000 * load + i)
            for i in range(arguments.requests)
        ]

    await client.transcribe(clips(load=0)[0])
    if arguments.rate:
        return [await poisson(client, clips(load=1), arguments.rate, rng)]
    return [await closed_loop(client, clips(load), load) for load in arguments.concurrency]


def main() -> None:
    """Run the loads one after the other and print a table."""
    arguments = _parser().parse_args()
    print(machine.describe())
    outcomes = asyncio.run(_run(arguments))
    print("| load | requests | failed | p50 s | p95 s | requests/s | audio s/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for o in outcomes:
        print(
            f"| {o.load} | {o.requests} | {o.failed} | {o.p50_s:.2f} | {o.p95_s:.2f} "
            f"| {o.requests_per_s:.2f} | {o.audio_s_per_s:.1f} |"
        )
    if arguments.json:
        report = {"machine": machine.describe(), "outcomes": [asdict(outcome) for outcome in outcomes]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
