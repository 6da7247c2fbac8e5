"""Long recordings against the same sentences one by one: what cutting and joining costs, in words and in seconds.

    python -m benchmarks.long_recording                          # starts the service, with the demo checkpoint
    ASR_MAX_UTTERANCE_S=30 python -m benchmarks.long_recording
    python -m benchmarks.long_recording --minutes 1 10 --url http://127.0.0.1:8000/v1

Sentences that the demo checkpoint never saw are spoken by voices that it knows (needs espeak-ng and flite) and joined
with pauses of 0.3 to 1.5 s. A row is one load: the sentences of ten minutes singly; sixty recordings of a minute (or as
many as the longest has minutes); then one recording of each length. A word is lost or doubled where it is missing from
the answer, or in it without having been said. Words that were heard as others are in the error rate alone.

The service is started with utterances of at most 5 s: the demo checkpoint errs ten times as often in those of 20 to
30 s, whoever cuts them, and that is not what is measured here.
"""

import argparse
import asyncio
import contextlib
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np

from benchmarks import machine, results
from benchmarks.client import Client, Clip, Run, closed_loop, failures
from benchmarks.demo_checkpoint import grammar, voices
from benchmarks.results import Cell
from benchmarks.scoring import units
from benchmarks.service import Service, settings_in_environment
from deployments.transcription.utterance import SAMPLE_RATE, Waveform
from tests.media import encode

COLUMNS = ["load", "recordings", "minutes", "WER %", "lost words", "doubled words", "s", "s per minute"]
PAUSE_S = (0.3, 1.5)
CONCURRENCY = 8
"""Of the short recordings; the default of the setting `utterance_window`."""
SENTENCES = 200
_SETTINGS = {
    "ASR_MAX_UPLOAD_BYTES": "1000000000",
    "ASR_REQUEST_TIMEOUT_S": "7200",
    "ASR_MAX_UTTERANCE_S": "5",
    **settings_in_environment(),
}


@dataclass(frozen=True)
class Spoken:
    """Sound and what is said in it."""

    waveform: Waveform
    text: str

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE


def speak(count: int) -> list[Spoken]:
    """Sentences of the test split, by the voices in turn."""
    voices.require_engines()
    rng = random.Random(5)
    speakers = voices.voices("English")
    texts = grammar.sentences("English", "test", count, seed=5)
    return [
        Spoken(voices.speak(speakers[i % len(speakers)], text, rng).astype(np.float32) / np.float32(32768), text)
        for i, text in enumerate(texts)
    ]


def join(sentences: list[Spoken], seconds: float, seed: int) -> Spoken:
    """A recording of at least so many seconds: the sentences in another order each time, with pauses."""
    rng = random.Random(seed)
    waveforms, texts, length = [], [], 0.0
    while length < seconds:
        for sentence in rng.sample(sentences, len(sentences)):
            pause = np.zeros(round(rng.uniform(*PAUSE_S) * SAMPLE_RATE), np.float32)
            waveforms += [pause, sentence.waveform]
            texts.append(sentence.text)
            length += len(pause) / SAMPLE_RATE + sentence.seconds
            if length >= seconds:
                break
    return Spoken(np.concatenate(waveforms), " ".join(texts))


def measure(name: str, spoken: list[Spoken], run: Run) -> list[Cell]:
    """One row of the table."""
    said = [" ".join(units(each.text, by_character=False)) for each in spoken]
    heard = [" ".join(units(exchange.text or "", by_character=False)) for exchange in run.exchanges]
    errors = jiwer.process_words(said, heard)
    minutes = sum(each.seconds for each in spoken) / 60
    return [
        name,
        len(spoken),
        minutes,
        100 * errors.wer,
        errors.deletions,
        errors.insertions,
        run.took_s,
        run.took_s / minutes,
    ]


async def run(client: Client, minutes: list[float]) -> tuple[list[list[Cell]], list[Run]]:
    """All loads, one after the other."""
    sentences = speak(SENTENCES)
    longest = max(minutes)
    singles = [join([sentence], sentence.seconds, seed) for seed, sentence in enumerate(sentences)]
    loads = [
        ("sentences singly", singles),
        ("one-minute recordings", [join(sentences, 60, seed) for seed in range(round(longest))]),
        *((f"one of {length:g} min", [join(sentences, 60 * length, 1000)]) for length in minutes),
    ]
    await client.transcribe(_clip(singles[0]))
    rows, runs = [], []
    for name, spoken in loads:
        runs.append(await closed_loop(client, [_clip(each) for each in spoken], CONCURRENCY))
        rows.append(measure(name, spoken, runs[-1]))
        print(results.table(COLUMNS, rows[-1:]).splitlines()[-1], flush=True)
    return rows, runs


def _clip(spoken: Spoken) -> Clip:
    return Clip(encode(spoken.waveform, "flac"), spoken.seconds, "recording.flac", {"language": "en"})


@contextlib.contextmanager
def _service(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder) / "log", "serve", **_SETTINGS) as service:
        service.wait_until_ready()
        yield f"{service.url}/v1"


async def _measure(url: str, minutes: list[float]) -> tuple[list[list[Cell]], list[Run]]:
    async with Client(url) as client:
        return await run(client, minutes)


def main() -> None:
    """Measure, print the figures, save them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a service that runs; by default one is started")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 60.0], help="lengths of the long recordings")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    with _service(arguments.url) as url:
        rows, runs = asyncio.run(_measure(url, arguments.minutes))
    print(results.table(COLUMNS, rows))
    for line in failures(runs):
        print(line)
    if arguments.save:
        settings: dict[str, Cell] = {} if arguments.url else {**_SETTINGS}
        print(results.save(arguments.save, results.command_line("benchmarks.long_recording"), settings, COLUMNS, rows))


if __name__ == "__main__":
    main()
