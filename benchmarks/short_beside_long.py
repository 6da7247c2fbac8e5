"""How long a short clip takes beside a long one that came shortly before it, and the long one beside it.

    ASR_MODEL=.work/random-0.6B ASR_LOOP_DETECTION=false make serve
    python -m benchmarks.short_beside_long --url http://127.0.0.1:8000/v1

In each round both are sent alone, one after the other, and then the short one `--after` seconds behind the long one.
Clips are noise of different seeds; their answers have as many tokens as `--max-new-tokens` says.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import clips, machine, results
from benchmarks.client import Client, Clip, Exchange, Run, Statistics, failures
from benchmarks.results import Cell

COLUMNS = ["clip", "rounds", "failed", "alone p50 s", "beside the other p50 s", "p95 s", "times as long"]


@dataclass
class Times:
    """Exchanges of one of the two clips."""

    seconds: float
    tokens: int
    alone: list[Exchange] = field(default_factory=list)
    beside: list[Exchange] = field(default_factory=list)

    def clip(self, seed: int) -> Clip:
        """The next one to send."""
        fields = {"max_new_tokens": str(self.tokens)} | clips.ALL_IS_SPEECH
        return clips.noise(self.seconds, seed=seed, fields=fields)

    def row(self) -> list[Cell]:
        """The cells of `COLUMNS`."""
        alone, beside = (Statistics.of(Run(exchanges, took_s=1.0)) for exchanges in (self.alone, self.beside))
        longer = beside.p50_s / alone.p50_s if beside.p50_s and alone.p50_s else None
        name = f"{self.seconds:g} s, {self.tokens} tokens"
        return [name, beside.requests, alone.failed + beside.failed, alone.p50_s, beside.p50_s, beside.p95_s, longer]


async def measure(client: Client, both: Sequence[Times], rounds: int, after_s: float) -> None:
    """Send the short and the long one alone and together, so many times, and note what came back."""

    async def later(clip: Clip) -> Exchange:
        await asyncio.sleep(after_s)
        return await client.transcribe(clip)

    short, long = both
    for times in both:
        await client.transcribe(times.clip(seed=0))
    for seed in range(1, 2 * rounds, 2):
        for times in both:
            times.alone.append(await client.transcribe(times.clip(seed)))
        exchanges = await asyncio.gather(later(short.clip(seed + 1)), client.transcribe(long.clip(seed + 1)))
        for times, exchange in zip(both, exchanges, strict=True):
            times.beside.append(exchange)


async def _measure(arguments: argparse.Namespace) -> list[Times]:
    both = [Times(*described) for described in zip(arguments.seconds, arguments.max_new_tokens, strict=True)]
    async with Client(arguments.url) as client:
        await measure(client, both, arguments.rounds, arguments.after)
    return both


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=[1.0, 30.0], help="of the short clip and the long one"
    )
    parser.add_argument("--max-new-tokens", type=int, nargs=2, default=[5, 120], help="of each one's answer")
    parser.add_argument(
        "--after", type=float, default=0.5, help="seconds between the long one's sending and the short one's"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    both = asyncio.run(_measure(arguments))
    rows = [times.row() for times in both]
    print(results.table(COLUMNS, rows))
    for line in failures(Run(times.alone + times.beside, took_s=1.0) for times in both):
        print(line)
    if arguments.save:
        print(results.save(arguments.save, results.command_line("benchmarks.short_beside_long"), {}, COLUMNS, rows))


if __name__ == "__main__":
    main()
