"""Autoscaling policies on simulated traffic, and how many replicas an amount of audio needs.

    python -m benchmarks.autoscaling
    python -m benchmarks.autoscaling capacity
    python -m benchmarks.autoscaling --traces burst --within-s 10 20 40

The same figures every time. Needs no GPU, no model and no cluster; all traces take about a minute.
"""

import argparse
import logging
import math
import warnings
from typing import Any

from ray.serve.config import AutoscalingConfig

from benchmarks import results
from benchmarks.autoscaling.fleet import Setup
from benchmarks.autoscaling.rates import RATES, Rates
from benchmarks.autoscaling.simulation import Outcome, simulate
from benchmarks.autoscaling.traces import traces
from benchmarks.results import Cell

SHARE = 0.1
"""Of the published throughput, so that hours of traffic are few enough utterances to simulate in seconds."""
HEADROOM = 0.7
"""Of its throughput that a replica is given to do: the rest is for peaks, restarts and uneven lengths."""
HOURS_OF_AUDIO_AN_HOUR = (10, 100, 1_000, 10_000, 1_000_000 / 24)
DELAYS = {"look_back_period_s": 20.0, "upscale_delay_s": 10.0, "downscale_delay_s": 300.0}
"""As docs/scaling.md recommends them, for both policies."""

TRACE_COLUMNS = ["traffic", "policy", "replicas, mean", "most", "changes", "late s p50", "p95", "max", "replica hours"]
CAPACITY_COLUMNS = ["hours of audio an hour", "a day", "1.7B on a GPU", "0.6B on a GPU", "0.6B on 2 cores of a CPU"]


def main() -> None:
    """Print a table, and save it where asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling", description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=("policies", "capacity"), default="policies")
    parser.add_argument("--model", choices=sorted(RATES), default="1.7B", help="whose published rates")
    parser.add_argument("--max-replicas", type=int, default=8)
    parser.add_argument("--start-s", type=float, default=60.0, help="until a new replica is ready")
    parser.add_argument("--requests", type=float, nargs="*", default=[16.0, 32.0], help="targets of the request policy")
    parser.add_argument("--within-s", type=float, nargs="*", default=[10.0], help="`within_s` of our policy")
    parser.add_argument("--traces", nargs="*", help="only these, by name")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.json")
    asked = parser.parse_args()
    columns, rows, settings = _capacity() if asked.what == "capacity" else _policies(asked)
    print(results.table(columns, rows))
    if asked.save:
        print(results.save(asked.save, results.command_line("benchmarks.autoscaling"), settings, columns, rows))


def _policies(asked: argparse.Namespace) -> tuple[list[str], list[list[Cell]], dict[str, Cell]]:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # Ray's, about settings that it will name differently one day
    setup = Setup(RATES[asked.model].shared(SHARE), start_s=asked.start_s)
    rows: list[list[Cell]] = []
    for trace in traces(setup.rates.audio_s_per_s[-1]):
        if asked.traces and trace.name not in asked.traces:
            continue
        for name, options in _configurations(asked, setup.rates).items():
            config = AutoscalingConfig(
                min_replicas=1, initial_replicas=trace.starts_with, max_replicas=asked.max_replicas, **options
            )
            rows.append([f"{trace.name}: {trace.what}", name, *_cells(simulate(trace, config, setup))])
            print(*rows[-1], sep=" | ", flush=True)
    return TRACE_COLUMNS, rows, {"rates": f"{SHARE:g} of {RATES[asked.model].source}"}


def _configurations(asked: argparse.Namespace, rates: Rates) -> dict[str, dict[str, Any]]:
    configurations: dict[str, dict[str, Any]] = {"requests, Ray's defaults": {}}
    for target in asked.requests:
        configurations[f"requests, {target:g}"] = {"target_ongoing_requests": target, **DELAYS}
    for within_s in asked.within_s:
        kwargs = {"audio_s_per_s": round(HEADROOM * rates.audio_s_per_s[-1]), "within_s": within_s}
        policy = {"policy_function": "deployments.autoscaling:AudioSecondsPolicy", "policy_kwargs": kwargs}
        configurations[f"audio, {kwargs['audio_s_per_s']} a second, within {within_s:g} s"] = {
            "policy": policy,
            **DELAYS,
        }
    return configurations


def _cells(outcome: Outcome) -> list[Cell]:
    if outcome.unanswered:
        raise RuntimeError(f"{outcome.unanswered} recordings were never answered: more replicas are needed")
    return [
        outcome.mean_replicas,
        outcome.most_replicas,
        outcome.changes,
        *(round(late, 1) for late in (outcome.late_p50_s, outcome.late_p95_s, outcome.late_max_s)),
        outcome.replica_hours,
    ]


def _capacity() -> tuple[list[str], list[list[Cell]], dict[str, Cell]]:
    # Hours of audio an hour are audio seconds per second.
    on_cpu = results.load(results.FOLDER / "load.json")
    rates = [
        RATES["1.7B"].audio_s_per_s[-1],
        RATES["0.6B"].audio_s_per_s[-1],
        max(float(row[on_cpu.columns.index("audio s/s")] or 0) for row in on_cpu.rows),
    ]
    rows: list[list[Cell]] = [
        [
            f"{hours:,.0f}",
            f"{24 * hours:,.0f}",
            *(f"{max(1, math.ceil(hours / (HEADROOM * rate))):,}" for rate in rates),
        ]
        for hours in HOURS_OF_AUDIO_AN_HOUR
    ]
    per_replica = ", ".join(f"{rate:.3g}" for rate in rates)
    settings: dict[str, Cell] = {
        "audio s/s of a replica": f"{per_replica}, of which {HEADROOM:.0%} are used",
        "on a GPU": RATES["1.7B"].source,
        "on a CPU": f"the best of the table load, {on_cpu.machine}",
    }
    return CAPACITY_COLUMNS, rows, settings


if __name__ == "__main__":
    main()
