"""Memory of the ingress while it answers a recording of hours.

    python -m benchmarks.long_recording.memory                     # an MP3 of six hours, answered whole, and streamed
    python -m benchmarks.long_recording.memory --hours 1 --answers json

The MP3 is joined speech of ten minutes over and over. For each answer the service is started anew, or what Ray's object
store keeps of one would be counted to the other. The resident memory of each process is looked at ten times a second;
*before* is after some short clips were answered. Exits with 1 where the ingress grew by more than 300 MB, or an
answer failed.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks import machine, results
from benchmarks.client import Client, Clip, Exchange
from benchmarks.long_recording.settings import SETTINGS, TIMEOUT_S
from benchmarks.long_recording.speech import Sentence, join, speak, write_mp3
from benchmarks.results import Cell
from benchmarks.service import Service, serving

COLUMNS = ["answer", "recording h", "upload MB", "s", "words", "process", "MB before", "MB at most", "MB more"]
MOST_GROWTH_MB = 300
SENTENCES = 200
SHORT_CLIPS = 8
"""What is only loaded on first use is loaded by these."""
ANSWERS: dict[str, dict[str, str]] = {
    "json": {},
    "verbose_json": {"response_format": "verbose_json"},
    "stream": {"stream": "true"},
}
_EVERY_S = 0.1


@dataclass
class Held:
    """Resident memory of a process, in MB."""

    before: float
    most: float

    @property
    def growth(self) -> float:
        return self.most - self.before


@contextmanager
def watching(processes: Mapping[str, psutil.Process]) -> Iterator[dict[str, Held]]:
    """What each of these holds at most until the context ends."""

    def held(process: psutil.Process) -> float:
        return float(process.memory_info().rss) / 1e6

    found = {name: Held(held(process), held(process)) for name, process in processes.items()}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_EVERY_S):
            for name, process in processes.items():
                found[name].most = max(found[name].most, held(process))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class Measured:
    """One answer to the recording."""

    answer: str
    exchange: Exchange
    held: Mapping[str, Held]

    def rows(self) -> list[list[Cell]]:
        """Of the table, one for each process."""
        clip = self.exchange.clip
        words = len((self.exchange.text or "").split())
        same: list[Cell] = [self.answer, clip.seconds / 3600, len(clip.upload) / 1e6, self.exchange.latency_s, words]
        return [[*same, name, held.before, held.most, held.growth] for name, held in self.held.items()]

    def problems(self) -> list[str]:
        """What is wrong with it."""
        problems = [f"{self.answer}: {self.exchange.error}"] if self.exchange.error is not None else []
        growth = self.held["ingress"].growth
        if growth > MOST_GROWTH_MB:
            problems.append(f"{self.answer}: the ingress grew by {growth:.0f} MB")
        return problems


async def measure(service: Service, sentences: list[Sentence], recording: Clip, answer: str) -> Measured:
    """Send the recording to a service that has done nothing yet."""
    ((ingress,), (asr,)) = service.replicas("Ingress"), service.replicas("ASR")
    processes = {"ingress": ingress, "ASR": asr, "proxy": service.proxy()}
    async with Client(f"{service.url}/v1", timeout_s=TIMEOUT_S) as client:
        for number in range(SHORT_CLIPS):
            await client.transcribe(join([sentences[number]], 1, number).clip())
        with watching(processes) as held:
            exchange = await client.transcribe(replace(recording, fields={**recording.fields, **ANSWERS[answer]}))
    return Measured(answer, exchange, held)


def recording_of(sentences: list[Sentence], hours: float) -> Clip:
    """An MP3 file of so many hours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.mp3"
        seconds = write_mp3(path, join(sentences, 600, seed=0), 3600 * hours)
        return Clip(path.read_bytes(), seconds, path.name, {"language": "en"})


def main() -> None:
    """Measure, print the figures, save them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=6.0, help="length of the recording")
    parser.add_argument("--answers", nargs="+", choices=ANSWERS, default=["json", "stream"])
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    sentences = speak(SENTENCES)
    recording = recording_of(sentences, arguments.hours)
    measured = []
    for answer in arguments.answers:
        with serving(SETTINGS) as service:
            measured.append(asyncio.run(measure(service, sentences, recording, answer)))
        print(results.table(COLUMNS, measured[-1].rows()), flush=True)
    if arguments.save:
        command = results.command_line("benchmarks.long_recording.memory")
        rows = [row for each in measured for row in each.rows()]
        print(results.save(arguments.save, command, {**SETTINGS}, COLUMNS, rows))
    if problems := [problem for each in measured for problem in each.problems()]:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
