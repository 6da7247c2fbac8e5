"""What this replica computes on: device, number format, threads."""

import math
import os

import torch

from deployments.exceptions import CheckpointError
from deployments.settings import Settings


def choose_device(gpus: float) -> torch.device:
    """The device of a replica that was given `gpus` GPUs (Ray makes only its own visible to it).

    Raises:
        CheckpointError: a GPU was given but torch cannot use it; falling back to the CPU would hide it.
    """
    if gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise CheckpointError(f"The ASR replica has num_gpus={gpus:g} but torch {torch.__version__} sees no GPU.")
    return torch.device("cuda")


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it, else float32: emulated bfloat16 is slower than that."""
    if setting != "auto":
        dtype: torch.dtype = getattr(torch, setting)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def choose_threads(settings: Settings, device: torch.device) -> int:
    """Threads for torch. Ray sets OMP_NUM_THREADS to 1, which would leave a CPU replica on one core."""
    if settings.torch_threads != "auto":
        return settings.torch_threads
    return 1 if device.type == "cuda" else len(os.sched_getaffinity(0))


def choose_admission(settings: Settings, device: torch.device) -> float:
    """Seconds of audio that may be encoded between two decode steps.

    A GPU encodes all that wait in about the time of one, a CPU in proportion: there the running utterances would stall.
    """
    if settings.admission_s != "auto":
        return settings.admission_s
    return math.inf if device.type == "cuda" else 10.0
