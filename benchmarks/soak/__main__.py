"""Load for minutes or hours at a fixed rate of arrivals, with everything that goes wrong in that time.

    python -m benchmarks.soak --minutes 30 --share 0.8                     # of a capacity that is measured first
    python -m benchmarks.soak --minutes 30 --rate 2 --kill-every 60        # a replica dies every minute
    python -m benchmarks.soak --minutes 30 --rate 2 --kill-every 60 --haproxy

It starts the service, with the demo checkpoint, and sends recordings of known words, short and long, in all formats, by
OpenAI's own SDK with its own retries. Some clients hang up, some files are broken. Requests arrive by chance, at that
rate, whether or not the service keeps up. An answer is right if it is word for word the one that the recording got
when nothing else ran, or at least close to what is said in it.

No request may be lost: each must get its own right text, if need be by the SDK's retries, or the refusal that it
deserves. No process may keep more than 5 % (or 5 MB) more of its own making after it has settled, but for what Ray's
agent is known to keep of each replica that was killed. Else this says so and exits with 1.
"""

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks import machine, results
from benchmarks.client import percentile
from benchmarks.results import Cell
from benchmarks.service import ROOT, Service, haproxy, settings_in_environment
from benchmarks.soak.cases import Case, Recording, make_case, recordings
from benchmarks.soak.client import DIFFERS, GOOD, HUNG_UP, REFUSED, RIGHT, Client, Outcome
from benchmarks.soak.memory import PARTS, Growth, Memory, kind

COLUMNS = [
    "minutes",
    "requests",
    "right",
    "refused",
    "hung up",
    "lost",
    "kills",
    "p50 s",
    "p95 s",
    "p99 s",
    "memory MB",
]
MEMORY_COLUMNS = [
    "process",
    "minutes",
    *(f"MB in part {part + 1}" for part in range(PARTS)),
    "growth %",
]
ROWS = 10
"""Of the table."""
CONCURRENCY = 16
"""Of the closed loop that measures the capacity."""
BURST = 200
"""Requests at once, before anything is measured: what the service keeps of the worst moment is not growth."""
REPLICA = "ServeReplica:asr:"
INGRESS_CPUS = 0.5
"""That Ray reserves for one Ingress replica."""


@dataclass
class Soak:
    """One run, as it goes on."""

    client: Client
    service: Service
    known: Sequence[Recording]
    arguments: argparse.Namespace
    outcomes: list[Outcome] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    totals: list[tuple[float, int]] = field(default_factory=list)
    """Bytes of all processes together, over time."""

    async def warm_up(self) -> None:
        """The most that it will ever have in hand."""
        await self._calm(1, at_once=BURST)

    async def capacity(self) -> float:
        """Requests a second that it answers when many are open at all times."""
        return await self._calm(self.arguments.capacity_s, at_once=CONCURRENCY)

    async def _calm(self, seconds: float, *, at_once: int) -> float:
        """Keep so many requests open, in which nothing goes wrong; return how many a second were answered."""
        numbers = iter(range(10**9))
        ends_at = time.monotonic() + seconds
        outcomes: list[Outcome] = []

        async def work() -> None:
            while time.monotonic() < ends_at:
                outcomes.append(await self.client.send(make_case(next(numbers), self.known, smooth=True)))

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(at_once)))
        if lost := [outcome for outcome in outcomes if outcome.kind not in GOOD]:
            raise RuntimeError(f"lost before anything went wrong: {_line(lost[0], started)}")
        return len(outcomes) / (time.monotonic() - started)

    async def run(self, rate: float) -> None:
        """Send, kill and look at the memory until the time is over and every request has ended."""
        started = time.monotonic()
        others = [asyncio.create_task(self._sample())]
        if self.arguments.kill_every:
            others.append(asyncio.create_task(self._kill()))
        requests: set[asyncio.Task[None]] = set()
        rng = random.Random(self.arguments.seed)
        number = self.arguments.seed * 1_000_000
        next_at = started
        while (next_at := next_at + rng.expovariate(rate)) < started + 60 * self.arguments.minutes:
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            number += 1
            self.arrivals.append(time.monotonic())
            task = asyncio.create_task(self._send(make_case(number, self.known), started))
            requests.add(task)
            task.add_done_callback(requests.discard)
        while requests:
            await asyncio.wait(requests)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _send(self, case: Case, started: float) -> None:
        outcome = await self.client.send(case)
        self.outcomes.append(outcome)
        if outcome.kind not in GOOD:
            print(_line(outcome, started), flush=True)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(self.arguments.sample_s)
            total = await asyncio.to_thread(lambda: self.memory.sample(self.service.processes()))
            self.totals.append((time.monotonic(), total))

    async def _kill(self) -> None:
        rng = random.Random(self.arguments.seed)
        while True:
            await asyncio.sleep(self.arguments.kill_every)
            replicas = []
            for process in self.service.processes():
                with contextlib.suppress(psutil.Error):
                    if kind(process).startswith(REPLICA):
                        replicas.append(process)
            if replicas:
                victim = rng.choice(replicas)
                self.kills.append((time.monotonic(), kind(victim)))
                print(f"killing {kind(victim)} ({victim.pid})", flush=True)
                victim.kill()

    def rows(self) -> list[list[Cell]]:
        """The run in ten parts, and as a whole."""
        began, ended = self.arrivals[0], max(outcome.ended_at for outcome in self.outcomes)
        step = (ended - began) / ROWS
        parts = [(began + i * step, began + (i + 1) * step + (i == ROWS - 1)) for i in range(ROWS)]
        rows = [[f"{(end - began) / 60:.1f}", *self._row(start, end)] for start, end in parts]
        return [*rows, ["all", *self._row(began, ended + 1)]]

    def _row(self, start: float, end: float) -> list[Cell]:
        here = [outcome for outcome in self.outcomes if start <= outcome.ended_at < end]
        kinds = Counter(outcome.kind for outcome in here)
        answered = [outcome.latency_s for outcome in here if outcome.kind in (RIGHT, DIFFERS)]
        held = [total for at, total in self.totals if start <= at < end]
        return [
            len(here),
            kinds[RIGHT] + kinds[DIFFERS],
            kinds[REFUSED],
            kinds[HUNG_UP],
            sum(count for what, count in kinds.items() if what not in GOOD),
            sum(start <= at < end for at, _ in self.kills),
            *(percentile(answered, percent) for percent in (50, 95, 99)),
            sum(held) / len(held) / 1e6 if held else None,
        ]


def _line(outcome: Outcome, started: float) -> str:
    at = outcome.ended_at - outcome.latency_s - started
    what = "bad file" if outcome.case.recording is None else f"{outcome.case.recording.seconds:.0f} s"
    sent = f"case {outcome.case.number} ({what}, {outcome.case.form}), sent at {at:.1f} s"
    return f"LOST: {sent}, after {outcome.latency_s:.1f} s: {outcome.kind} {outcome.detail}"


@contextlib.contextmanager
def _service(arguments: argparse.Namespace) -> Iterator[Service]:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    replicas = {"ASR": arguments.asr_replicas, "Ingress": arguments.ingress_replicas}
    for deployment in config["applications"][0]["deployments"]:
        deployment["num_replicas"] = replicas[deployment["name"]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        environment = {**_shares(arguments), **settings_in_environment()}
        environment |= haproxy() if arguments.haproxy else {}
        log = Path(arguments.log) if arguments.log else Path(folder) / "log"
        with Service(log, "serve", file, **environment) as service:
            service.wait_until_ready()
            yield service


def _shares(arguments: argparse.Namespace) -> dict[str, str]:
    """What each ASR replica may take of this machine's cores, so that all replicas find a place on it."""
    cores = len(os.sched_getaffinity(0))
    reserved = (cores - INGRESS_CPUS * arguments.ingress_replicas) / arguments.asr_replicas
    return {
        "ASR_TORCH_THREADS": str(max(1, cores // arguments.asr_replicas)),
        "ASR_NUM_CPUS": f"{min(1.0, max(0.1, reserved)):.2f}",
    }


async def _soak(service: Service, arguments: argparse.Namespace) -> tuple[Soak, float]:
    client = Client(f"{service.url}/v1", max_retries=arguments.max_retries)
    known = await client.learn(recordings())
    print(f"{len(known)} recordings, of {sum(one.seconds for one in known):.0f} s", flush=True)
    soak = Soak(client, service, known, arguments)
    await soak.warm_up()
    rate = arguments.rate
    if rate is None:
        capacity = await soak.capacity()
        rate = arguments.share * capacity
        print(f"capacity {capacity:.2f} requests/s; {arguments.share:g} of it are {rate:.2f}", flush=True)
    client.tries.clear()
    await soak.run(rate)
    await client.close()
    return soak, rate


def _memory_rows(growth: Sequence[Growth]) -> list[list[Cell]]:
    return [
        [
            one.kind,
            round(one.minutes, 1),
            *(held / 1e6 for held in one.held),
            100 * (one.ratio - 1),
        ]
        for one in growth
    ]


def main() -> None:
    """Soak, print tables, save them where asked to, exit with 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--rate", type=float, help="arrivals a second")
    how_much.add_argument("--share", type=float, default=0.8, help="of the capacity, which is measured first")
    parser.add_argument("--capacity-s", type=float, default=60, help="measure the capacity for so long")
    parser.add_argument("--kill-every", type=float, metavar="S", help="SIGKILL a random replica every S seconds")
    parser.add_argument("--haproxy", action="store_true", help="in the place of Serve's proxy")
    parser.add_argument("--asr-replicas", type=int, default=2)
    parser.add_argument("--ingress-replicas", type=int, default=2)
    parser.add_argument("--max-retries", type=int, default=2, help="the SDK's; 2 is its default")
    parser.add_argument("--sample-s", type=float, default=10, help="look at the memory every so many seconds")
    parser.add_argument("--settle-s", type=float, help="of each process; by default a fifth of the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", help="keep the service's output there")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.json and NAME_memory.json")
    arguments = parser.parse_args()
    print(machine.describe(), flush=True)
    with _service(arguments) as service:
        soak, rate = asyncio.run(_soak(service, arguments))
    growth = soak.memory.growth(arguments.settle_s or 60 * arguments.minutes / 5, kills=len(soak.kills))
    _report(soak, growth, rate, arguments)
    lost = [outcome for outcome in soak.outcomes if outcome.kind not in GOOD]
    grown = [one for one in growth if not one.is_flat]
    for one in grown:
        print(f"GROWN: {one.kind} ({one.pid}) by {100 * (one.ratio - 1):.1f} %")
    if lost or grown:
        sys.exit(1)


def _report(soak: Soak, growth: Sequence[Growth], rate: float, arguments: argparse.Namespace) -> None:
    rows, memory_rows = soak.rows(), _memory_rows(growth)
    print(results.table(COLUMNS, rows))
    print(results.table(MEMORY_COLUMNS, memory_rows))
    kinds = Counter(outcome.kind for outcome in soak.outcomes)
    tries = {status: count for status, count in sorted(soak.client.tries.items()) if count}
    print("requests:", ", ".join(f"{count} {what}" for what, count in kinds.most_common()))
    print("tries, by status:", ", ".join(f"{count} × {status}" for status, count in tries.items()))
    for outcome in soak.outcomes:
        if outcome.kind == DIFFERS:
            print(f"in other words: case {outcome.case.number}: {outcome.detail}")
    if arguments.save:
        settings: dict[str, Any] = {
            "arrivals a second": f"{rate:.2f}",
            "tries": ", ".join(f"{count} × {status}" for status, count in tries.items()),
            **settings_in_environment(),
        }
        command = results.command_line("benchmarks.soak")
        print(results.save(arguments.save, command, settings, COLUMNS, rows))
        print(results.save(f"{arguments.save}_memory", command, settings, MEMORY_COLUMNS, memory_rows))


if __name__ == "__main__":
    main()
