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
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import openai

from benchmarks import datasets, machine, results
from benchmarks.datasets import Recording
from benchmarks.faults.cluster import Cluster
from benchmarks.faults.load import Call, Load, failed_tries, is_right, longest_silence
from benchmarks.faults.scenarios import FAULTS, REQUEST_TIMEOUT_S, Fault
from benchmarks.results import Cell
from benchmarks.service import Service

CALM_S = 6.0
"""Of load before the fault."""
AFTER_S = 6.0
"""Of load after the part is whole again."""
PATIENCE_S = 150.0
MODEL = "qwen3-asr-demo"
STOPPED = "stopped"
NAMES = (*(fault.name for fault in FAULTS), STOPPED)
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

    name: str
    what: str
    calls: list[Call]
    hurt_at: float
    whole_after_s: float | None
    """None where it was not within `PATIENCE_S`."""

    def row(self) -> list[Cell]:
        """The cells of `COLUMNS`."""
        ends = Counter(call.end for call in self.calls)
        failed = failed_tries(self.calls)
        return [
            self.name,
            self.what,
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
            f"{self.name}: sent {call.sent_at - self.hurt_at:+.2f} s, {call.end} after {call.took_s:.2f} s"
            f"{', streamed' if call.stream else ''}, tries {call.tries}: {call.said}"
            for call in self.calls
            if call.end != "right"
        ]
        if self.whole_after_s is None:
            found.append(f"{self.name}: not whole again within {PATIENCE_S:g} s")
        return found


async def suffer(fault: Fault, recordings: list[Recording], rate: float) -> Outcome:
    """Start a service, load it, hurt it, wait until it is whole again, and stop it."""
    with Cluster(
        fault.config(), head_cpus=fault.head_cpus, workers=fault.workers, keeps_state=fault.keeps_state
    ) as cluster:
        await asyncio.to_thread(cluster.deploy)
        await asyncio.to_thread(cluster.wait_until_running)
        ports = [cluster.proxy_port(where) for where in fault.proxies]
        load = Load(ports, MODEL, await _understood(ports, recordings), rate=rate)
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
    return Outcome(fault.name, fault.what, load.calls, hurt_at, whole_after_s)


async def stop_service(recordings: list[Recording]) -> Outcome:
    """SIGTERM to `make serve` with every recording on its way; whole again means that it has ended."""
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder) / "serve.log") as service:
        await asyncio.to_thread(service.wait_until_ready)
        ports = [int(service.url.rsplit(":", 1)[1])]
        load = Load(ports, MODEL, await _understood(ports, recordings))
        hurt_at = 0.0

        def stop() -> None:
            nonlocal hurt_at
            hurt_at = time.monotonic()
            service.process.send_signal(signal.SIGTERM)

        await load.burst(stop, after_s=1.0)
        await asyncio.to_thread(service.process.wait, PATIENCE_S)
        return Outcome(STOPPED, "SIGTERM to `make serve`", load.calls, hurt_at, time.monotonic() - hurt_at)


async def _understood(ports: list[int], recordings: list[Recording]) -> list[Recording]:
    """Those whose words the model gets right when nothing disturbs it; each proxy has answered."""
    understood = []
    for i, recording in enumerate(recordings):
        url = f"http://127.0.0.1:{ports[i % len(ports)]}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=10) as sdk:
            answer = await sdk.audio.transcriptions.create(model=MODEL, file=recording.path)
            if is_right(recording, answer.text):
                understood.append(recording)
    return understood


async def _outcome(name: str, recordings: list[Recording], rate: float) -> Outcome:
    if name == STOPPED:
        return await stop_service(recordings)
    return await suffer(next(fault for fault in FAULTS if fault.name == name), recordings, rate)


def _save(name: str, rows: list[list[Cell]], rate: float) -> None:
    path = results.FOLDER / f"{name}.json"
    kept = {row[0]: row for row in results.load(path).rows} if path.exists() else {}
    kept |= {row[0]: row for row in rows}
    ordered = [kept[name] for name in NAMES if name in kept]
    settings: dict[str, Cell] = {"rate": rate, "request_timeout_s": REQUEST_TIMEOUT_S}
    print(results.save(name, f"python -m benchmarks.faults --save {name}", settings, COLUMNS, ordered))


def main() -> None:
    """Suffer the faults one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - set(NAMES):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    print(machine.describe())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a cluster ends with what started it
    recordings = datasets.read(datasets.DEMO)
    rows, problems = [], []
    for name in arguments.faults or NAMES:
        outcome = asyncio.run(_outcome(name, recordings, arguments.rate))
        rows.append(outcome.row())
        problems += outcome.problems()
        print(results.table(COLUMNS, rows[-1:]).splitlines()[-1], *outcome.problems(), sep="\n", flush=True)
        if arguments.save:
            _save(arguments.save, rows, arguments.rate)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
