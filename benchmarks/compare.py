"""This project's service and the baseline under the same loads, one after the other in the same minutes.

    ASR_MODEL=.work/random-0.6B python -m benchmarks.compare --rate 0.5 --seconds 2 12 --max-new-tokens 10 80

The baseline is `@serve.batch` around plain `generate` (`benchmarks/baseline.py`). Both get the same settings, from the
environment, and the same clips at the same times. The ratio above 1 is how many times better the service is. Where the
answers have a fixed length (`--max-new-tokens`), loops are not stopped: random weights say little else.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks import load, machine, results
from benchmarks.client import Client, Run, Statistics, failures
from benchmarks.results import Cell
from benchmarks.service import Service, Target, settings_in_environment

COLUMNS = ["service", *load.COLUMNS]
NAMES: dict[Target, str] = {"serve": "this service", "baseline": "@serve.batch + generate"}


def ratios(name: str, ours: Statistics, baseline: Statistics) -> list[Cell]:
    """A row of `COLUMNS` that says how many times better ours is, in latencies and rates alike."""

    def times(better: float | None, worse: float | None) -> float | None:
        return better / worse if better and worse else None

    return [
        "ratio",
        name,
        None,
        None,
        times(baseline.mean_s, ours.mean_s),
        times(baseline.p50_s, ours.p50_s),
        times(baseline.p95_s, ours.p95_s),
        times(baseline.rtf_mean, ours.rtf_mean),
        times(baseline.rtf_p95, ours.rtf_p95),
        times(ours.requests_per_s, baseline.requests_per_s),
        times(ours.audio_s_per_s, baseline.audio_s_per_s),
    ]


async def _load(url: str, arguments: argparse.Namespace) -> dict[str, Run]:
    async with Client(url, fields=dict(arguments.extra)) as client:
        return await load.run(client, arguments)


def _measure(target: Target, arguments: argparse.Namespace) -> dict[str, Run]:
    settings = _settings(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        Service(Path(folder) / "serve.log", target, None, **settings) as service,
    ):
        service.wait_until_ready()
        return asyncio.run(_load(f"{service.url}/v1", arguments))


def _settings(arguments: argparse.Namespace) -> dict[str, str]:
    fixed_length = {"ASR_LOOP_DETECTION": "false"} if arguments.max_new_tokens else {}
    return {**fixed_length, **settings_in_environment()}


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load.add_arguments(parser)
    arguments = parser.parse_args()
    print(machine.describe())
    runs = {target: _measure(target, arguments) for target in NAMES}
    rows: list[list[Cell]] = []
    for name in runs["serve"]:
        both = {target: Statistics.of(of[name]) for target, of in runs.items()}
        rows += [[NAMES[target], *load.row(name, of)] for target, of in both.items()]
        rows.append(ratios(name, both["serve"], both["baseline"]))
    print(results.table(COLUMNS, rows))
    for line in failures(run for of in runs.values() for run in of.values()):
        print(line)
    if arguments.save:
        settings: dict[str, Cell] = {**_settings(arguments)}
        print(results.save(arguments.save, results.command_line("benchmarks.compare"), settings, COLUMNS, rows))


if __name__ == "__main__":
    main()
