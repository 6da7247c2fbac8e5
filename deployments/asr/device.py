"""What this replica computes on: device, number format, threads."""

import importlib.util
import os

import psutil
import torch
from transformers import Qwen3Config

from deployments.asr.cache import slot_bytes
from deployments.exceptions import CheckpointError
from deployments.settings import MAX_AUTO_SLOTS, Settings

"""More rows than these make every one slower without making all of them faster."""
KEPT_FOR_CACHE = 0.8
"""Share of the free memory that the cache may take; the rest is for activations."""


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


def choose_threads(settings: Settings, device: torch.device) -> int:
    """Threads for torch. Ray sets OMP_NUM_THREADS to 1, which would leave a CPU replica on one core."""
    if settings.torch_threads != "auto":
        return settings.torch_threads
    return 1 if device.type == "cuda" else len(os.sched_getaffinity(0))


def choose_admission(settings: Settings, device: torch.device) -> float:
    """Seconds of audio that may be encoded between two decode steps.

    A GPU encodes many in about the time of one, a CPU in proportion: there the running utterances would stall. What
    bounds a GPU is memory: the encoder's first convolution makes 3 MB of every second.
    """
    if settings.admission_s != "auto":
        return settings.admission_s
    return 600.0 if device.type == "cuda" else 10.0


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
        return int(KEPT_FOR_CACHE * psutil.virtual_memory().available)
    free, total = torch.cuda.mem_get_info(device)
    own = min(free, total * min(gpus, 1.0) - torch.cuda.memory_reserved(device))
    return int(KEPT_FOR_CACHE * own)


def choose_attention(device: torch.device, dtype: torch.dtype) -> str:
    """How the audio encoder attends: FlashAttention where it is installed and serves, else torch's own."""
    installed = importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if installed and device.type == "cuda" and dtype != torch.float32 else "sdpa"
