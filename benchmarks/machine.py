"""What a figure was measured on: every benchmark prints this first."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

PACKAGES = ("ray", "torch", "transformers", "av", "soxr")


def describe() -> str:
    """Processor, cores, memory and the versions that matter, in two lines."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"machine: {cpu}, {cores} cores, {memory:.0f} GiB\nversions: Python {platform.python_version()}, {versions}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
