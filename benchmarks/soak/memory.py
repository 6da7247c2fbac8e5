"""Memory of every process of a service over time."""

import contextlib
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

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


@dataclass(frozen=True)
class Sample:
    """Bytes at a moment."""

    at: float
    own: int
    """For the process alone (`USS`): what would be free if it ended."""
    resident: int
    """With those that it shares (`RSS`)."""


@dataclass(frozen=True)
class Growth:
    """How the memory of one process went, from when it had settled to its end."""

    kind: str
    pid: int
    minutes: float
    own: Sequence[float]
    """Bytes for itself alone: the median of each fifth of its samples."""
    resident: Sequence[float]
    """Bytes with those that it shares, likewise."""
    kept: float = 0.0
    """Bytes that it is known to keep of processes that have ended."""

    @property
    def ratio(self) -> float:
        """1.0: it did not grow."""
        return self.own[-1] / self.own[0]

    @property
    def is_flat(self) -> bool:
        """Within what may be, for itself or in all.

        A process that was forked shares pages with the one that it came from until either writes to them: a garbage
        collection does, to all. It then has more for itself and no more in all. And one that reads more of Ray's object
        store has more in all and no more for itself.
        """
        return self._is_flat(self.own) or self._is_flat(self.resident)

    def _is_flat(self, course: Sequence[float]) -> bool:
        grown = course[-1] - course[0] - self.kept
        return grown <= max(MAY_GROW_BYTES, (MAY_GROW - 1) * course[0])


class Memory:
    """Samples of the memory of processes."""

    def __init__(self) -> None:
        self._samples: dict[tuple[int, str], list[Sample]] = {}

    def sample(self, processes: Iterable[psutil.Process]) -> int:
        """Take one of each; return the sum of what each has for itself alone, in bytes."""
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                held = process.memory_full_info()
                total += held.uss
                sample = Sample(time.monotonic(), held.uss, held.rss)
                self._samples.setdefault((process.pid, kind(process)), []).append(sample)
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
            own = [statistics.median(sample.own for sample in part) for part in parts]
            resident = [statistics.median(sample.resident for sample in part) for part in parts]
            minutes = (settled[-1].at - settled[0].at) / 60
            found.append(Growth(what, pid, minutes, own, resident, kills * KEPT_OF_THE_DEAD.get(what, 0)))
        return found
