"""Load on any OpenAI-compatible transcription service: closed loop or Poisson arrivals, distinct clips, over HTTP.

    python -m benchmarks.load --url http://127.0.0.1:8000/v1 --model qwen3-asr-demo --concurrency 1 4 8 16
    python -m benchmarks.load --url http://127.0.0.1:8000/v1 --model qwen3-asr-demo --rate 0.5 --seconds 2 12

A closed loop keeps that many requests open at all times; Poisson arrivals come at `--rate` a second whether or not the
service keeps up. Clips are noise of different seeds, or the recordings of a folder that `--clips` names, each time a
little quieter by another amount and as WAV, so that no cache helps.
`--max-new-tokens` fixes the length of the answers of random weights, and has noise decoded, though nobody speaks in it.
It is an extension of ours; what another service calls it can be sent with `--extra`, such as
`--extra max_completion_tokens=40`.
"""

import argparse
import asyncio
import random
import sys
from pathlib import Path

from benchmarks import clips, machine, results
from benchmarks.client import Client, Clip, Run, Statistics, closed_loop, failures, poisson
from benchmarks.results import Cell

COLUMNS = [
    "load",
    "requests",
    "failed",
    "mean s",
    "p50 s",
    "p95 s",
    "RTF mean",
    "RTF p95",
    "requests/s",
    "audio s/s",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What describes a load, whichever service it goes to."""
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument(
        "--rate", type=float, nargs="+", default=[], help="Poisson arrivals a second, in place of the closed loops"
    )
    parser.add_argument("--requests", type=int, nargs="+", default=[32], help="of each load, or of all")
    parser.add_argument("--seconds", type=float, nargs=2, default=[10.0, 10.0], help="shortest and longest clip")
    parser.add_argument("--max-new-tokens", type=int, nargs=2, default=None, help="fewest and most")
    parser.add_argument("--clips", type=Path, help="folder of recordings to send in place of noise, over and over")
    parser.add_argument(
        "--extra",
        type=form_field,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further form field of every request; may be given several times",
    )
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")


def form_field(text: str) -> tuple[str, str]:
    """`KEY=VALUE` of a command line."""
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def make_clips(arguments: argparse.Namespace, load: int, requests: int) -> list[Clip]:
    """The clips of one load; the same arguments always make the same ones."""
    if arguments.clips:
        recordings = clips.recordings(arguments.clips)
        return [clips.varied(*recordings[i % len(recordings)], seed=(load, i)) for i in range(requests)]
    rng = random.Random(load)
    made = []
    for i in range(requests):
        budget = {"max_new_tokens": str(rng.randint(*arguments.max_new_tokens))} if arguments.max_new_tokens else {}
        if budget:  # it goes to this project's service, which decodes no noise unless told to
            budget |= clips.ALL_IS_SPEECH
        made.append(clips.noise(rng.uniform(*arguments.seconds), seed=1000 * load + i, fields=budget))
    return made


async def run(client: Client, arguments: argparse.Namespace) -> dict[str, Run]:
    """One request to warm up, then the loads one after the other; by name."""
    await client.transcribe(make_clips(arguments, load=0, requests=1)[0])
    loads = arguments.rate or arguments.concurrency
    counts = arguments.requests if len(arguments.requests) > 1 else arguments.requests * len(loads)
    runs = {}
    for i, (load, requests) in enumerate(zip(loads, counts, strict=True), start=1):
        if arguments.rate:
            arrivals = poisson(client, make_clips(arguments, i, requests), load, random.Random(i))
            runs[f"Poisson {load:g}/s"] = await arrivals
        else:
            runs[f"concurrency {load}"] = await closed_loop(client, make_clips(arguments, load, requests), load)
    return runs


def row(name: str, of: Statistics) -> list[Cell]:
    """The cells of `COLUMNS`."""
    return [
        name,
        of.requests,
        of.failed,
        of.mean_s,
        of.p50_s,
        of.p95_s,
        of.rtf_mean,
        of.rtf_p95,
        of.requests_per_s,
        of.audio_s_per_s,
    ]


async def _measure(arguments: argparse.Namespace) -> dict[str, Run]:
    async with Client(arguments.url, arguments.model, arguments.api_key, dict(arguments.extra)) as client:
        return await run(client, arguments)


def main() -> None:
    """Run the loads one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key", default="none")
    parser.add_argument(
        "--server", default="", help="what is measured and how it was started, to keep with the figures"
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    print(machine.describe())
    runs = asyncio.run(_measure(arguments))
    statistics = {name: Statistics.of(of) for name, of in runs.items()}
    rows = [row(name, of) for name, of in statistics.items()]
    print(results.table(COLUMNS, rows))
    for line in failures(runs.values()):
        print(line)
    if any(of.failed == of.requests for of in statistics.values()):
        sys.exit("a load got no answer at all")
    if arguments.save:
        settings: dict[str, Cell] = {"server": arguments.server} if arguments.server else {}
        print(results.save(arguments.save, results.command_line("benchmarks.load"), settings, COLUMNS, rows))


if __name__ == "__main__":
    main()
