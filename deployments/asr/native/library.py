"""Finds the library that `decoder.c` and `encoder.c` were built into, and says what it is called with.

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

INTERFACE = 5
ENCODER_INTERFACE = 1
"""Of the library, which was built when this package was last installed, and may be older than this file."""
TILE = 32
"""Outputs that are summed side by side."""
GROUP = 12
"""Rows that are multiplied at a time."""
LINE = 8
"""Numbers of a row that lie together where it is multiplied."""
BLOCK = 128
"""Tokens of a prompt that a thread attends for at a time."""
PLACES = 2 * GROUP
"""Of a convolution's output that a thread takes at a time."""
TOGETHER = 4
"""Chunks of audio that are convolved together."""
CONVOLUTIONS = 3
PATCH = 16
"""Places that there must be room for, of the nine that a convolution looks at."""
LANES = 16
"""Numbers of float32 in a register."""
MAX_HEAD_DIM = GROUP * LANES
"""A head fills so many registers at most as there are for rows."""


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class WeightStructure(Structure):
    _fields_ = _fields(c_void_p, "tiles scales offsets biases")


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


class RoomStructure(Structure):
    _fields_ = _fields(c_void_p, "numbers row_scales")


class PassStructure(Structure):
    _fields_ = [
        ("wanted_count", c_int64),
        *_fields(c_void_p, "wanted logits residual projected gated taken"),
        ("room", RoomStructure),
    ]


class LayerNormStructure(Structure):
    _fields_ = _fields(c_void_p, "weight bias")


class EncoderLayerStructure(Structure):
    _fields_ = [
        *_fields(WeightStructure, "qkv output up down"),
        *_fields(LayerNormStructure, "attention_norm mlp_norm"),
    ]


class EncoderStructure(Structure):
    _fields_ = [
        ("convolutions", WeightStructure * CONVOLUTIONS),
        ("joined", WeightStructure),
        ("places", c_void_p),
        ("layers", POINTER(EncoderLayerStructure)),
        ("norm", LayerNormStructure),
        *_fields(WeightStructure, "first second"),
        *_fields(c_int64, "layer_count hidden intermediate heads embedding channels frames bins"),
        *_fields(c_float, "epsilon scaling"),
    ]


class SoundsStructure(Structure):
    _fields_ = [
        ("spectrum", c_void_p),
        *_fields(c_int64, "chunk_count window_count"),
        *_fields(c_void_p, "chunk_starts window_starts"),
        ("longest", c_int64),
        *_fields(c_void_p, "embeddings residual"),
        ("images", c_void_p * CONVOLUTIONS),
        *_fields(c_void_p, "wide attended patches taken"),
        ("room", RoomStructure),
        *_fields(c_void_p, "scores shares queries tiles"),
    ]


@cache
def library() -> CDLL | None:
    """The built library; None where there is none, or where this processor cannot run it."""
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        return None
    loaded = load_library(Path(__file__).parent)
    if loaded is None:
        logger.warning("the model is left to torch: install this package again, where there is a C compiler")
    return loaded


def load_library(folder: Path) -> CDLL | None:
    """The library in a folder; None where there is none, or another than this file was written for."""
    paths = [folder / f"_native{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    structures = (LayerStructure, ModelStructure, PieceStructure, BatchStructure, PassStructure)
    encoder_structures = (EncoderLayerStructure, EncoderStructure, SoundsStructure)
    expected = {
        "decoder_interface": [INTERFACE, *map(ctypes.sizeof, structures), TILE, GROUP, LINE, BLOCK],
        "encoder_interface": [ENCODER_INTERFACE, *map(ctypes.sizeof, encoder_structures), PLACES, TOGETHER],
    }
    try:
        loaded = ctypes.CDLL(str(path))
        for name, numbers in expected.items():
            if list((c_int64 * len(numbers)).in_dll(loaded, name)) != numbers:
                return None
    except (OSError, ValueError):  # the OpenMP that it was built with is missing, or it is as old as can be
        return None
    pointer, number = c_void_p, c_int64
    for name, arguments in {
        "decode": (POINTER(ModelStructure), POINTER(BatchStructure), POINTER(PassStructure)),
        "encode": (POINTER(EncoderStructure), POINTER(SoundsStructure)),
        "multiply_rows": (POINTER(WeightStructure), pointer, number, number, number, pointer, POINTER(RoomStructure)),
    }.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = [*arguments, c_int], None
    return loaded
