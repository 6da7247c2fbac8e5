"""Faults under load: a part of a running service is killed, hung, starved or replaced while clients use it.

    python -m benchmarks.faults asr-killed proxy-killed      # these two
    python -m benchmarks.faults --save faults                # all of them, some 25 minutes

Each fault gets a Ray cluster of its own on this machine with the demo checkpoint, from `serve_config.yaml` and the
environment of `make serve`. Recordings whose texts are known are sent at a fixed rate through OpenAI's SDK with its own
retries, every third one streamed. Exits with 1 where a request was lost, answered with a wrong text or left hanging.
`--save` keeps the rows of faults that were measured before and not now.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass

import openai

from benchmarks import datasets, machine, results
from benchmarks.datasets import Recording
from benchmarks.faults.cluster import Cluster
from benchmarks.faults.load import Call, Load, failed_tries, longest_silence
from benchmarks.faults.scenarios import FAULTS, REQUEST_TIMEOUT_S, Fault
from benchmarks.results import Cell

CALM_S = 6.0
"""Of load before the fault."""
AFTER_S = 6.0
"""Of load after the part is whole again."""
PATIENCE_S = 150.0
MODEL = "qwen3-asr-demo"
COLUMNS = [
    "fault",
    "what happens",
    "requests",
    "tries that failed",
    "lost after the SDK's retries",
    "wrong or hung",
    "longest without an answer s",
    "slowest answer s",
    "whole again after s",
]


@dataclass(frozen=True)
class Outcome:
    """What one fault did."""

    fault: Fault
    calls: list[Call]
    hurt_at: float
    whole_after_s: float | None
    """None where it was not within `PATIENCE_S`."""

    def row(self) -> list[Cell]:
        """The cells of `COLUMNS`."""
        ends = Counter(call.end for call in self.calls)
        failed = failed_tries(self.calls)
        return [
            self.fault.name,
            self.fault.what,
            len(self.calls),
            ", ".join(f"{count} × {kind}" for kind, count in failed.most_common()) or 0,
            ends["lost"],
            ends["wrong"] + ends["hung"],
            longest_silence(self.calls, self.hurt_at),
            max(call.took_s for call in self.calls),
            self.whole_after_s,
        ]

    def problems(self) -> list[str]:
        """A line for each call that did not end with its right text."""
        found = [
            f"{self.fault.name}: sent {call.sent_at - self.hurt_at:+.2f} s, {call.end} after {call.took_s:.2f} s"
            f"{', streamed' if call.stream else ''}, tries {call.tries}: {call.said}"
            for call in self.calls
            if call.end != "right"
        ]
        if self.whole_after_s is None:
            found.append(f"{self.fault.name}: not whole again within {PATIENCE_S:g} s")
        return found


async def suffer(fault: Fault, recordings: list[Recording], rate: float) -> Outcome:
    """Start a service, load it, hurt it, wait until it is whole again, and stop it."""
    with Cluster(
        fault.config(), head_cpus=fault.head_cpus, workers=fault.workers, keeps_state=fault.keeps_state
    ) as cluster:
        await asyncio.to_thread(cluster.deploy)
        await asyncio.to_thread(cluster.wait_until_running)
        url = f"http://127.0.0.1:{cluster.worker_ports[0] if fault.through_worker else cluster.port}"
        await _warm_up(url, recordings)
        load = Load(url, MODEL, recordings, rate=rate)
        async with load.running():
            await asyncio.sleep(CALM_S)
            hurt_at = time.monotonic()
            whole = await fault.inject(cluster)
            whole_after_s = None
            while whole_after_s is None and time.monotonic() < hurt_at + PATIENCE_S:
                if await whole():
                    whole_after_s = time.monotonic() - hurt_at
                await asyncio.sleep(0.1)
            await asyncio.sleep(AFTER_S)
    return Outcome(fault, load.calls, hurt_at, whole_after_s)


async def _warm_up(url: str, recordings: list[Recording]) -> None:
    """One request, as soon as a proxy of a new cluster takes one."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=10) as sdk:
        await sdk.audio.transcriptions.create(model=MODEL, file=recordings[0].path)


def _save(name: str, rows: list[list[Cell]], rate: float) -> None:
    path = results.FOLDER / f"{name}.json"
    kept = {row[0]: row for row in results.load(path).rows} if path.exists() else {}
    kept |= {row[0]: row for row in rows}
    ordered = [kept[fault.name] for fault in FAULTS if fault.name in kept]
    settings: dict[str, Cell] = {"rate": rate, "request_timeout_s": REQUEST_TIMEOUT_S}
    print(results.save(name, f"python -m benchmarks.faults --save {name}", settings, COLUMNS, ordered))


def main() -> None:
    """Suffer the faults one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    by_name = {fault.name: fault for fault in FAULTS}
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(by_name)}; all by default")
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - set(by_name):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    print(machine.describe())
    recordings = datasets.read(datasets.DEMO)
    rows, problems = [], []
    for name in arguments.faults or by_name:
        outcome = asyncio.run(suffer(by_name[name], recordings, arguments.rate))
        rows.append(outcome.row())
        problems += outcome.problems()
        print(results.table(COLUMNS, rows[-1:]).splitlines()[-1], *outcome.problems(), sep="\n", flush=True)
        if arguments.save:
            _save(arguments.save, rows, arguments.rate)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
