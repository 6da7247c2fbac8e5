"""Long recordings against the same sentences one by one: what cutting and joining costs, in words and in seconds.

    python -m benchmarks.long_recording                          # starts the service, with the demo checkpoint
    ASR_MAX_UTTERANCE_S=30 python -m benchmarks.long_recording
    python -m benchmarks.long_recording --minutes 1 10 --url http://127.0.0.1:8000/v1

The first row is ten minutes of sentences, sent singly and eight at a time. The others are an hour in recordings of one
length, sent one after the other: sixty of a minute, six of ten minutes, one of an hour; and ten minutes whose sentences
follow each other without pauses, so that most pieces begin and end within a sentence. A word is lost where it is
missing from the answer, added where it is in it without having been said; words that were heard as others are in the
error rate alone. What happens to a sentence in company only, not where it is sent alone, is printed, with the words
around it. The model has to answer for it as well, but where the sentence was cut in two: that is counted as *at cuts*.

The processor's seconds are those of all processes of the service together: seconds of the clock also tell how well the
cores were kept busy, and who else was.

Pieces are as long as the service makes them by default, up to 12 s of the demo checkpoint's.
"""

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import requests

from benchmarks import machine, results
from benchmarks.client import Client, Run, closed_loop, failures
from benchmarks.long_recording.cuts import cut_sentences
from benchmarks.long_recording.settings import SETTINGS, TIMEOUT_S
from benchmarks.long_recording.speech import UNPAUSED_S, Recording, join, speak
from benchmarks.long_recording.words import Comparison, Habits, by_joining, compare, habits
from benchmarks.results import Cell
from benchmarks.service import Service, serving

COLUMNS = [
    "load",
    "minutes",
    "WER %",
    "words",
    "lost",
    "added",
    "not so singly",
    "cut sentences",
    "lost or added at cuts",
    "s per minute",
    "processor s per minute",
]
CONCURRENCY = 8
"""Of the single sentences; the default of the setting `utterance_window`."""
SENTENCES = 200
"""Ten minutes."""


@dataclass(frozen=True)
class Load:
    """Recordings that were sent, and what came of it."""

    name: str
    recordings: Sequence[Recording]
    run: Run
    processor_s: float | None

    @property
    def minutes(self) -> float:
        return sum(recording.seconds for recording in self.recordings) / 60

    def comparisons(self) -> list[Comparison]:
        """Of each recording, nothing having been heard where it failed."""
        return [
            compare([sentence.text for sentence in recording.sentences], exchange.text or "")
            for recording, exchange in zip(self.recordings, self.run.exchanges, strict=True)
        ]


async def send(
    name: str, recordings: Sequence[Recording], client: Client, service: Service | None, at_once: int
) -> Load:
    """Send all of them, so many at a time."""
    clips = [recording.clip() for recording in recordings]
    before = service.processor_s() if service is not None else 0.0
    run = await closed_loop(client, clips, at_once)
    return Load(name, recordings, run, service.processor_s() - before if service is not None else None)


def report(load: Load, prone: Habits, limit_s: float) -> tuple[list[Cell], list[str]]:
    """One row of the table, and a line for each slip that is not made where the sentence is sent alone."""
    comparisons = load.comparisons()
    cut = [cut_sentences(recording, limit_s) for recording in load.recordings]
    words = sum(comparison.words for comparison in comparisons)
    slips = [slip for comparison in comparisons for slip in comparison.slips]
    joined = [
        (slip, not numbers.isdisjoint(slip.sentences))
        for recording, comparison, numbers in zip(load.recordings, comparisons, cut, strict=True)
        for slip in by_joining(comparison, [sentence.text for sentence in recording.sentences], prone)
    ]
    row: list[Cell] = [
        load.name,
        load.minutes,
        100 * sum(comparison.errors for comparison in comparisons) / words,
        words,
        sum(slip.kind == "lost" for slip in slips),
        sum(slip.kind == "added" for slip in slips),
        len(joined),
        sum(map(len, cut)),
        sum(at_cut for _, at_cut in joined),
        load.run.took_s / load.minutes,
        load.processor_s / load.minutes if load.processor_s is not None else None,
    ]
    return row, [f"{load.name}{', at a cut' if at_cut else ''}: {slip}" for slip, at_cut in joined]


async def run(client: Client, service: Service | None, minutes: Sequence[float], unpaused: float) -> list[Load]:
    """All loads, one after the other; that of the single sentences is the first."""
    sentences = speak(SENTENCES)
    singles = [join([sentence], sentence.seconds, seed) for seed, sentence in enumerate(sentences)]
    await client.transcribe(singles[0].clip())
    loads = [await send("sentences singly", singles, client, service, CONCURRENCY)]
    for length in minutes:
        count = max(1, round(max(minutes) / length))
        recordings = [join(sentences, 60 * length, seed) for seed in range(count)]
        loads.append(await send(f"{count} of {length:g} min", recordings, client, service, 1))
        print(f"{loads[-1].name}: {loads[-1].run.took_s:.1f} s", flush=True)
    if unpaused > 0:
        unbroken = [join(sentences, 60 * unpaused, seed=0, pause_s=UNPAUSED_S)]
        loads.append(await send(f"{unpaused:g} min without pauses", unbroken, client, service, 1))
    return loads


async def _measure(url: str, service: Service | None, minutes: Sequence[float], unpaused: float) -> list[Load]:
    async with Client(url, timeout_s=TIMEOUT_S) as client:
        return await run(client, service, minutes, unpaused)


def main() -> None:
    """Measure, print the figures, save them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a service that runs; by default one is started")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0, 60.0], help="lengths of the recordings")
    parser.add_argument(
        "--unpaused", type=float, default=10.0, metavar="MINUTES", help="of one more without pauses; 0 for none"
    )
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    with contextlib.nullcontext() if arguments.url else serving(SETTINGS) as service:
        url = f"{service.url}/v1" if service is not None else arguments.url
        limit_s = requests.get(f"{url}/models", timeout=10).json()["data"][0]["max_utterance_s"]
        loads = asyncio.run(_measure(url, service, arguments.minutes, arguments.unpaused))
    singly = loads[0]
    prone = habits(
        (recording.sentences[0].text, comparison)
        for recording, comparison in zip(singly.recordings, singly.comparisons(), strict=True)
    )
    rows, slips = zip(*(report(load, prone, limit_s) for load in loads), strict=True)
    for line in [line for lines in slips for line in lines] + failures(load.run for load in loads):
        print(line)
    print(results.table(COLUMNS, rows))
    if arguments.save:
        settings: dict[str, Cell] = {} if arguments.url else {**SETTINGS}
        command = results.command_line("benchmarks.long_recording")
        print(results.save(arguments.save, command, settings, COLUMNS, list(rows)))


if __name__ == "__main__":
    main()
