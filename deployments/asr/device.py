"""What this replica computes on: device, number format, threads."""

import math
import os
from pathlib import Path

import psutil
import torch
from transformers import Qwen3Config

from deployments.asr.cache import slot_bytes
from deployments.exceptions import CheckpointError
from deployments.settings import MAX_AUTO_SLOTS, Settings

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container's limits are told (of the second kind of control groups, which Kubernetes uses)."""
KEPT_FOR_CACHE = 0.8
"""Share of the free memory that the cache may take; the rest is for activations."""
ENCODED_BYTES_PER_S = 3_500_000
"""For each byte of a number, what the encoder holds of a second of audio at its widest: two of its first convolution's
outputs at a time."""


def choose_device(gpus: float) -> torch.device:
    """The device of a replica that was given `gpus` GPUs (Ray makes only its own visible to it).

    Raises:
        CheckpointError: a GPU was given but torch cannot use it; falling back to the CPU would hide it.
    """
    if gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise CheckpointError(f"This replica was given {gpus:g} GPUs but torch {torch.__version__} sees no GPU.")
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


def prepare_gpu() -> None:
    """Set torch up for serving from a GPU."""
    # cuDNN's plans for masked attention are built anew for every shape, which takes a second each.
    torch.backends.cuda.enable_cudnn_sdp(False)


def choose_threads(settings: Settings, device: torch.device) -> int:
    """Threads for torch. Ray sets OMP_NUM_THREADS to 1, which would leave a CPU replica on one core."""
    if settings.torch_threads != "auto":
        return settings.torch_threads
    return 1 if device.type == "cuda" else _cores()


def _cores() -> int:
    """Cores that this process may use. A container's limit is a quota of time on all cores of its machine."""
    visible = len(os.sched_getaffinity(0))
    try:
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
    except OSError:  # no container
        return visible
    return visible if quota == "max" else min(visible, max(1, math.ceil(int(quota) / int(period))))


def choose_admission(settings: Settings, dtype: torch.dtype, device: torch.device, spare_bytes: float) -> float:
    """Seconds of audio that may be encoded between two decode steps.

    A GPU encodes many in about the time of one, a CPU in proportion: there the running utterances would stall. What
    bounds a GPU is memory: half of the `spare_bytes` that the cache leaves.
    """
    if settings.admission_s != "auto":
        return settings.admission_s
    if device.type == "cpu":
        return 10.0
    return min(600.0, max(30.0, spare_bytes / 2 / (ENCODED_BYTES_PER_S * dtype.itemsize)))


def choose_piece(dtype: torch.dtype, device: torch.device) -> int:
    """Tokens of a prompt that are read along with one decode step, where others are running; 0 for whole prompts.

    They share the step's pass over the weights, and delay it. A CPU that computes in float32 streams weights while its
    arithmetic units idle: 32 tokens fill them, and delay a step by less than half a second at the size of
    Qwen3-ASR-0.6B. One that multiplies bfloat16 is six times as fast in arithmetic, and what a step costs besides its
    products weighs more: the prompt of 10 s of audio goes at once, in about as long. A GPU reads whole prompts in the
    time of a step or two.
    """
    if device.type == "cuda":
        return 0
    return 32 if dtype == torch.float32 else 160


def choose_slots(settings: Settings, config: Qwen3Config, dtype: torch.dtype, device: torch.device, gpus: float) -> int:
    """Slots of the cache, once the model is loaded: those that were set, or as many as the free memory holds.

    Args:
        settings: `slots` and `slot_tokens`.
        config: of the language model.
        dtype: of the cache.
        device: where it will be.
        gpus: share of the GPU that this replica was given.

    Raises:
        CheckpointError: there is no room for those that were set, or for a single one.
    """
    each = slot_bytes(config, settings.slot_tokens, dtype)
    room = free_bytes(device, gpus)
    wanted = MAX_AUTO_SLOTS[device.type] if settings.slots == "auto" else settings.slots
    least = 1 if settings.slots == "auto" else settings.slots
    if least * each > room:
        raise CheckpointError(
            f"{least} slots of {settings.slot_tokens} tokens need {least * each / 2**30:.1f} GiB and {device} has "
            f"{max(room, 0) / 2**30:.1f} GiB for them. Set fewer slots or slot_tokens, or a smaller model."
        )
    return min(wanted, room // each)


def free_bytes(device: torch.device, gpus: float) -> int:
    """Memory left on a device for the cache, with a part set aside for what a step computes."""
    if device.type == "cpu":
        return int(KEPT_FOR_CACHE * _free_memory())
    free, total = torch.cuda.mem_get_info(device)
    own = min(free, total * gpus - torch.cuda.memory_reserved(device))
    return int(KEPT_FOR_CACHE * own)


def _free_memory() -> int:
    """Of the machine, or of the container where that is less."""
    free: int = psutil.virtual_memory().available
    try:
        limit, used = ((CONTROL_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        used_for = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
    except OSError:  # no container
        return free
    # Cached files, such as the checkpoint's, go when memory is needed.
    return free if limit == "max" else min(free, int(limit) - int(used) + int(used_for["inactive_file"]))
