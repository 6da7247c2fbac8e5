"""How long `make serve` takes to its first transcript, and how much memory the service then holds.

    python -m benchmarks.startup [--runs 3]

The environment must be set up already (`make setup`). Memory is the proportional set size of all processes that
`make serve` started, Ray's own included: pages that processes share count once.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import requests

from benchmarks import machine
from benchmarks.service import ROOT, Service
from benchmarks.soak.memory import kind

RECORDING = ROOT / "tests" / "data" / "speech" / "en-00-flite-slt.flac"


def main() -> None:
    """Start, transcribe once, measure, stop; several times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    print(machine.describe())
    seconds, mebibytes = [], []
    for run in range(1, runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            took, memory = _measure(Path(folder) / "serve.log")
        seconds.append(took)
        mebibytes.append(sum(memory.values()))
        print(f"run {run}: first transcript after {took:.1f} s, {mebibytes[-1]:.0f} MiB:")
        for name, size in sorted(memory.items(), key=lambda item: -item[1]):
            print(f"    {size:6.0f} MiB  {name}")
    print(f"median of {runs}: {statistics.median(seconds):.1f} s, {statistics.median(mebibytes):.0f} MiB")


def _measure(log: Path) -> tuple[float, dict[str, float]]:
    """Seconds to the first transcript, and MiB by kind of process."""
    started = time.monotonic()
    service = Service(log)
    try:
        service.wait_until_ready()
        answer = requests.post(
            f"{service.url}/v1/audio/transcriptions",
            files={"file": RECORDING.read_bytes()},
            data={"model": "qwen3-asr-demo"},
            timeout=120,
        )
        answer.raise_for_status()
        took = time.monotonic() - started
        memory: dict[str, float] = {}
        for process in psutil.Process(service.process.pid).children(recursive=True):
            name = kind(process)
            memory[name] = memory.get(name, 0.0) + process.memory_full_info().pss / 2**20
    finally:
        service.stop()
    return took, memory


if __name__ == "__main__":
    main()
