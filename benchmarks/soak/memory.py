"""Memory of every process of a service over time."""

import contextlib
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

MAY_GROW = 1.05
MAY_GROW_BYTES = 5_000_000
"""More than this as well: five percent of a small process are a few pages."""
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
class Growth:
    """How the memory of one process went, from when it had settled to its end."""

    kind: str
    pid: int
    minutes: float
    first_bytes: float
    last_bytes: float
    """Medians of the first and the last fifth of its samples."""

    @property
    def ratio(self) -> float:
        """1.0: it did not grow."""
        return self.last_bytes / self.first_bytes

    @property
    def is_flat(self) -> bool:
        """Within what may be."""
        return self.ratio <= MAY_GROW or self.last_bytes - self.first_bytes <= MAY_GROW_BYTES


class Memory:
    """Samples of bytes that a process has for itself alone (`USS`): what would be free if it ended."""

    def __init__(self) -> None:
        self._samples: dict[tuple[int, str], list[tuple[float, int]]] = {}

    def sample(self, processes: Iterable[psutil.Process]) -> int:
        """Take one of each; return the sum."""
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                held = process.memory_full_info().uss
                total += held
                self._samples.setdefault((process.pid, kind(process)), []).append((time.monotonic(), held))
        return total

    def growth(self, settle_s: float) -> list[Growth]:
        """Of each process that lived long enough, leaving out the first `settle_s` seconds that it was seen."""
        found = []
        for (pid, what), samples in sorted(self._samples.items(), key=lambda item: item[0][1]):
            settled = [(at, held) for at, held in samples if at >= samples[0][0] + settle_s]
            if len(settled) < FEWEST_SAMPLES:
                continue
            fifth = max(2, len(settled) // 5)
            first, last = (statistics.median(held for _, held in part) for part in (settled[:fifth], settled[-fifth:]))
            found.append(Growth(what, pid, (settled[-1][0] - settled[0][0]) / 60, first, last))
        return found
