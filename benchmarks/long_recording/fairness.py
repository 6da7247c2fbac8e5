"""How much later short clips are answered while a giant recording is being transcribed.

    python -m benchmarks.long_recording.fairness
    python -m benchmarks.long_recording.fairness --clips 30 --rate 0.5 --hours 10

Clips of about 2 s arrive by chance: first with nothing else to do, then, at the same moments, beside a recording of
hours that has been under way for a while and is given up at the end. Answers are streamed, for the first words are what
a caller waits for. *Later by* is the difference; counted in decode steps, it is divided by what a step took on average
while both were there.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, results
from benchmarks.client import Client, Clip, Run, failures, percentile, poisson
from benchmarks.long_recording.settings import SETTINGS, TIMEOUT_S
from benchmarks.long_recording.speech import Sentence, join, speak, write_mp3
from benchmarks.results import Cell
from benchmarks.service import METRICS_EVERY_S, Service, serving

COLUMNS = ["load", "clips", "failed", "first words s p50", "p95", "whole answer s p50", "p95", "decode step ms"]
CLIP_S = 2.0
SENTENCES = 200
_HANDED_OVER_S = METRICS_EVERY_S + 5
_STEPS = "ray_asr_decode_steps_total"
_STEP_S = 'ray_asr_stage_seconds_total{stage="decode"}'


@dataclass(frozen=True)
class Load:
    """Short clips that were answered, and how long a decode step took meanwhile, in seconds."""

    name: str
    run: Run
    step_s: float

    @property
    def failed(self) -> int:
        return sum(exchange.error is not None for exchange in self.run.exchanges)

    def times(self) -> list[float]:
        """Median and 95th percentile until the first words, and until the whole answer."""
        answered = [exchange for exchange in self.run.exchanges if exchange.error is None]
        firsts = [exchange.latency_s if exchange.first_s is None else exchange.first_s for exchange in answered]
        wholes = [exchange.latency_s for exchange in answered]
        return [percentile(times, percent) or 0.0 for times in (firsts, wholes) for percent in (50, 95)]


def rows_of(alone: Load, beside: Load) -> list[list[Cell]]:
    """Both, and the difference."""
    later = [there - here for here, there in zip(alone.times(), beside.times(), strict=True)]
    rows: list[list[Cell]] = [
        [load.name, len(load.run.exchanges), load.failed, *load.times(), 1000 * load.step_s] for load in (alone, beside)
    ]
    return [
        *rows,
        ["later by, s", None, None, *later, None],
        ["later by, decode steps", None, None, *(seconds / beside.step_s for seconds in later), None],
    ]


async def measure(name: str, service: Service, clips: Sequence[Clip], rate: float) -> Load:
    """Send the clips, always at the same moments."""
    before = service.counters(_STEPS, _STEP_S)
    async with Client(f"{service.url}/v1") as client:
        run = await poisson(client, clips, rate, random.Random(2))
    await asyncio.sleep(_HANDED_OVER_S)
    after = service.counters(_STEPS, _STEP_S)
    return Load(name, run, (after[_STEP_S] - before[_STEP_S]) / max(1.0, after[_STEPS] - before[_STEPS]))


async def run(service: Service, sentences: list[Sentence], count: int, rate: float, hours: float) -> tuple[Load, Load]:
    """The clips alone, then beside the giant.

    Raises:
        RuntimeError: the giant was through before the clips were, or failed.
    """
    short = sorted(sentences, key=lambda sentence: abs(sentence.seconds - CLIP_S))[:count]
    clips = [join([sentence], sentence.seconds, seed).clip(stream="true") for seed, sentence in enumerate(short)]
    async with Client(f"{service.url}/v1", timeout_s=TIMEOUT_S) as client:
        for clip in clips[:5]:
            await client.transcribe(clip)
        await asyncio.sleep(_HANDED_OVER_S)
        alone = await measure("clips of 2 s alone", service, clips, rate)
        giant = asyncio.create_task(client.transcribe(_giant(sentences, hours)))
        await asyncio.sleep(_HANDED_OVER_S)
        beside = await measure(f"beside a recording of {hours:g} h", service, clips, rate)
        if giant.done():
            raise RuntimeError(f"the giant was through too soon: {giant.result().error or 'it needs more --hours'}")
        giant.cancel()
        await asyncio.gather(giant, return_exceptions=True)
    return alone, beside


def _giant(sentences: list[Sentence], hours: float) -> Clip:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "giant.mp3"
        seconds = write_mp3(path, join(sentences, 600, seed=0), 3600 * hours)
        return Clip(path.read_bytes(), seconds, path.name, {"language": "en", "stream": "true"})


def main() -> None:
    """Measure, print the figures, save them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1.0, help="clips a second")
    parser.add_argument("--hours", type=float, default=5.0, help="of the giant recording")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    sentences = speak(SENTENCES)
    with serving(SETTINGS) as service:
        alone, beside = asyncio.run(run(service, sentences, arguments.clips, arguments.rate, arguments.hours))
    rows = rows_of(alone, beside)
    print(results.table(COLUMNS, rows))
    for line in failures([alone.run, beside.run]):
        print(line)
    if arguments.save:
        command = results.command_line("benchmarks.long_recording.fairness")
        print(results.save(arguments.save, command, {**SETTINGS}, COLUMNS, rows))
    if alone.failed or beside.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
