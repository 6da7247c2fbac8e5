"""Finds the library that `decoder.c` was built into, and says what it is called with.

It is built where this package is installed and there is a C compiler, and used where the processor has AVX-512 BF16.
Elsewhere, and for other formats, torch's operators do the same.
"""

import ctypes
import logging
from ctypes import CDLL, POINTER, Structure, c_float, c_int, c_int64, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger("ray.serve.asr")

INTERFACE = 4
"""Of the library, which was built when this package was last installed, and may be older than this file."""
TILE = 32
"""Outputs that are summed side by side."""
GROUP = 8
"""Rows that are multiplied at a time."""
BLOCK = 128
"""Tokens of a prompt that a thread attends for at a time."""
LANES = 16
"""Numbers of float32 in a register."""
MAX_HEAD_DIM = GROUP * LANES
"""A head fills so many registers at most as there are for rows."""


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class WeightStructure(Structure):
    _fields_ = _fields(c_void_p, "tiles scales offsets")


class LayerStructure(Structure):
    _fields_ = [
        *_fields(WeightStructure, "qkv output gate_up down"),
        *_fields(c_void_p, "attention_norm head_norms mlp_norm keys values"),
    ]


class ModelStructure(Structure):
    _fields_ = [
        ("layers", POINTER(LayerStructure)),
        ("head", WeightStructure),
        ("norm", c_void_p),
        *_fields(c_int64, "layer_count hidden intermediate heads key_heads head_dim vocabulary slot_tokens"),
        *_fields(c_float, "epsilon head_epsilon scaling"),
    ]


class PieceStructure(Structure):
    _fields_ = _fields(c_int64, "slot start tokens")


class BatchStructure(Structure):
    _fields_ = [
        *_fields(c_int64, "rows first_slot"),
        ("positions", c_void_p),
        ("piece_count", c_int64),
        ("pieces", POINTER(PieceStructure)),
        *_fields(c_void_p, "cosines sines projected attended scores shares queries tiles"),
    ]


class PassStructure(Structure):
    _fields_ = [
        ("wanted_count", c_int64),
        *_fields(c_void_p, "wanted logits residual projected normed gated rounded row_scales"),
    ]


@cache
def library() -> CDLL | None:
    """The built library; None where there is none, or where this processor cannot run it."""
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        return None
    loaded = load_library(Path(__file__).parent)
    if loaded is None:
        logger.warning("the language model is left to torch: install this package again, where there is a C compiler")
    return loaded


def load_library(folder: Path) -> CDLL | None:
    """The library in a folder; None where there is none, or another than this file was written for."""
    paths = [folder / f"_decoder{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    structures = (LayerStructure, ModelStructure, PieceStructure, BatchStructure, PassStructure)
    expected = [INTERFACE, *map(ctypes.sizeof, structures), TILE, GROUP, BLOCK]
    try:
        loaded = ctypes.CDLL(str(path))
        if list((c_int64 * len(expected)).in_dll(loaded, "decoder_interface")) != expected:
            return None
    except (OSError, ValueError):  # the OpenMP that it was built with is missing, or it is as old as can be
        return None
    model, batch, pointer, number = POINTER(ModelStructure), POINTER(BatchStructure), c_void_p, c_int64
    for name, arguments in {
        "decode": (model, batch, POINTER(PassStructure)),
        "multiply_rows": (POINTER(WeightStructure), pointer, number, number, number, pointer, pointer, pointer),
        "attend_tokens": (model, number, batch),
        "add_and_normalise": (pointer, pointer, pointer, c_float, number, number, pointer),
        "gate": (pointer, number, number, pointer),
    }.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [*arguments, c_int], None
    return loaded
