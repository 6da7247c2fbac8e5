"""How long a short clip takes beside a long one that came shortly before it, and the long one beside it.

    ASR_MODEL=.work/random-0.6B ASR_LOOP_DETECTION=false make serve
    python -m benchmarks.short_beside_long --model random-0.6B

In each round both are sent alone, one after the other, and then the short one behind the long one, once for each of the
seconds `--after`. Clips are noise of different seeds; their answers have as many tokens as `--max-new-tokens` says.
"""

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from benchmarks import clips, machine, results
from benchmarks.client import Client, Clip, Exchange, Run, Statistics, failures
from benchmarks.results import Cell


@dataclass
class Times:
    """Exchanges of one of the two clips, by the seconds that the short one was sent behind the long one; None alone."""

    seconds: float
    tokens: int
    exchanges: dict[float | None, list[Exchange]] = field(default_factory=lambda: defaultdict(list))

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.seconds:g} s, {self.tokens} tokens"

    def clip(self, seed: int) -> Clip:
        """The next one to send."""
        fields = {"max_new_tokens": str(self.tokens)} | clips.ALL_IS_SPEECH
        return clips.noise(self.seconds, seed=seed, fields=fields)

    def statistics(self, after_s: float | None) -> Statistics:
        """How long it took."""
        return Statistics.of(Run(self.exchanges[after_s], took_s=1.0))

    def times_alone(self, after_s: float) -> float | None:
        """How many times as long it took as alone, by the medians; None where one of them is missing."""
        alone, beside = self.statistics(None).p50_s, self.statistics(after_s).p50_s
        return beside / alone if beside and alone else None


def table(both: Sequence[Times], after_s: Sequence[float]) -> tuple[list[str], list[list[Cell]]]:
    """Columns, and a row for the clips alone and for each time."""
    short, long = both
    columns = ["sent after s", "rounds", "failed"]
    columns += [f"{short.name}: p50 s", "p95 s", "times alone", f"{long.name}: p50 s", "times alone"]
    rows: list[list[Cell]] = []
    for key in (None, *after_s):
        one, other = short.statistics(key), long.statistics(key)
        longer = [None, None] if key is None else [times.times_alone(key) for times in both]
        failed = one.failed + other.failed
        rows.append(
            [
                "alone" if key is None else key,
                one.requests,
                failed,
                one.p50_s,
                one.p95_s,
                longer[0],
                other.p50_s,
                longer[1],
            ]
        )
    return columns, rows


async def measure(client: Client, both: Sequence[Times], rounds: int, after_s: Sequence[float]) -> None:
    """Send the short and the long one alone and together, so many times, and note what came back."""
    seeds = count()

    async def send(times: Times, later_s: float = 0.0) -> Exchange:
        clip = times.clip(next(seeds))
        await asyncio.sleep(later_s)
        return await client.transcribe(clip)

    short, long = both
    for times in both:
        await send(times)
    for _ in range(rounds):
        for times in both:
            times.exchanges[None].append(await send(times))
        for seconds in after_s:
            exchanges = await asyncio.gather(send(short, seconds), send(long))
            for times, exchange in zip(both, exchanges, strict=True):
                times.exchanges[seconds].append(exchange)


async def _measure(arguments: argparse.Namespace) -> list[Times]:
    both = [Times(*described) for described in zip(arguments.seconds, arguments.max_new_tokens, strict=True)]
    async with Client(arguments.url, arguments.model) as client:
        await measure(client, both, arguments.rounds, arguments.after)
    return both


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="by default the first one that the service lists")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=[1.0, 30.0], help="of the short clip and the long one"
    )
    parser.add_argument("--max-new-tokens", type=int, nargs=2, default=[5, 120], help="of each one's answer")
    parser.add_argument(
        "--after",
        type=float,
        nargs="+",
        default=[0.5 * i for i in range(1, 9)],
        metavar="SECONDS",
        help="between the long one's sending and the short one's",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    both = asyncio.run(_measure(arguments))
    columns, rows = table(both, arguments.after)
    print(results.table(columns, rows))
    for line in failures(Run(each, took_s=1.0) for times in both for each in times.exchanges.values()):
        print(line)
    if arguments.save:
        print(results.save(arguments.save, results.command_line("benchmarks.short_beside_long"), {}, columns, rows))


if __name__ == "__main__":
    main()
