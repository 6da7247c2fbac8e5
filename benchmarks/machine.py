"""What a figure was measured on: every benchmark prints this first."""

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Instructions that multiply bfloat16: with them a processor is several times as fast."""
PACKAGES = ("ray", "torch", "transformers", "av", "soxr", "qwen-asr")


def describe() -> str:
    """Processor, cores, memory and the versions that matter, in two lines."""
    return f"machine: {hardware()}\nversions: {', '.join(f'{name} {version}' for name, version in versions().items())}"


def hardware() -> str:
    """Processor, cores this process may run on, memory, and GPUs where there are any."""
    cpu = _field("/proc/cpuinfo", "model name") or platform.processor()
    instructions = (_field("/proc/cpuinfo", "flags") or "").split()
    cpu += "".join(f" with {name}" for name in BFLOAT16 if name in instructions)
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / 2**30
    gpus = [_field(str(path), "Model") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return ", ".join([cpu, f"{cores} cores", f"{memory:.0f} GiB", *(gpu for gpu in gpus if gpu)])


def versions() -> dict[str, str]:
    """Python's, and those of the installed packages that decide about speed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _field(path: str, name: str) -> str | None:
    """The first value of `name: value` lines in a file of /proc."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
