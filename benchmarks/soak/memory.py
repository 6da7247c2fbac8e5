"""Memory of every process of a service over time."""

import contextlib
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

MAY_GROW = 1.05
MAY_GROW_BYTES = 5_000_000
"""More than this as well: five percent of a small process are a few pages."""
KEPT_OF_THE_DEAD = {"Ray: DashboardAgent": 300_000}
"""Bytes that a process may keep of each replica that was killed: Ray's agent on a node goes on reporting the counters
and histograms of processes that have ended, for as long as the node lives."""
PARTS = 5
"""Of a process' life, each of which has its median."""
FEWEST_SAMPLES = 8
"""Of a process that is judged: one that was killed soon after its start says nothing."""

KINDS = (
    "ServeReplica:asr:ASR",
    "ServeReplica:asr:Aligner",
    "ServeReplica:asr:Ingress",
    "ServeController",
    "HAProxyManager",
    "ProxyActor",
)


def kind(process: psutil.Process) -> str:
    """What a process is, in the words of Ray.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    command = " ".join(process.cmdline())
    name = process.name()
    for part in KINDS:
        if part in command:
            return part
    return "Ray: " + name.removeprefix("ray::").split()[0] if command else name


def held_by(process: psutil.Process) -> int:
    """Bytes that a process keeps of its own making: neither files nor memory that several map.

    It is the memory that is anonymous, from Linux. What would be free if the process ended (`USS`) is another thing: it
    grows when another ends that had mapped the same pages of Ray's object store, which uploads go through, and when a
    garbage collection writes to pages that a process has had since it was forked.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError as error:
        raise psutil.NoSuchProcess(process.pid) from error
    told = (line.split() for line in status.splitlines())
    return sum(1024 * int(words[1]) for words in told if words[0] == "RssAnon:")


@dataclass(frozen=True)
class Sample:
    """Bytes at a moment."""

    at: float
    held: int


@dataclass(frozen=True)
class Growth:
    """How the memory of one process went, from when it had settled to its end."""

    kind: str
    pid: int
    minutes: float
    held: Sequence[float]
    """Bytes: the median of each fifth of its samples."""
    kept: float = 0.0
    """Bytes that it is known to keep of processes that have ended."""

    @property
    def ratio(self) -> float:
        """1.0: it did not grow."""
        return self.held[-1] / self.held[0]

    @property
    def is_flat(self) -> bool:
        grown = self.held[-1] - self.held[0] - self.kept
        return grown <= max(MAY_GROW_BYTES, (MAY_GROW - 1) * self.held[0])


class Memory:
    """Samples of the memory of processes."""

    def __init__(self) -> None:
        self._samples: dict[tuple[int, str], list[Sample]] = {}

    def sample(self, processes: Iterable[psutil.Process]) -> int:
        """Take one of each; return the sum of what each holds, in bytes."""
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                sample = Sample(time.monotonic(), held_by(process))
                self._samples.setdefault((process.pid, kind(process)), []).append(sample)
                total += sample.held
        return total

    def growth(self, settle_s: float, *, kills: int = 0) -> list[Growth]:
        """Of each process that lived long enough, leaving out the first `settle_s` seconds that it was seen.

        Args:
            settle_s: seconds.
            kills: replicas that were killed meanwhile.
        """
        found = []
        for (pid, what), samples in sorted(self._samples.items(), key=lambda item: item[0][1]):
            settled = [sample for sample in samples if sample.at >= samples[0].at + settle_s]
            if len(settled) < FEWEST_SAMPLES:
                continue
            bounds = [round(part * len(settled) / PARTS) for part in range(PARTS + 1)]
            parts = [settled[start:end] for start, end in pairwise(bounds)]
            held = [statistics.median(sample.held for sample in part) for part in parts]
            minutes = (settled[-1].at - settled[0].at) / 60
            found.append(Growth(what, pid, minutes, held, kills * KEPT_OF_THE_DEAD.get(what, 0)))
        return found
