"""Decode steps in one call of `decode_step.c`, on a CPU that multiplies bfloat16.

The library is built where this package is installed and there is a C compiler, and used where the processor has AVX-512
BF16. Elsewhere, and for other formats, torch's operators do the same.
"""

import ctypes
import logging
from ctypes import CDLL, POINTER, Structure, byref, c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn

from deployments.asr.cache import SlotCache
from deployments.asr.mapped import HUGE_PAGE, mapped_zeros

if TYPE_CHECKING:
    from deployments.asr.decoder import Decoder, DecoderLayer

logger = logging.getLogger("ray.serve.asr")

INTERFACE = 2
"""Of the library, which was built when this package was last installed, and may be older than this file."""
TILE = 32
"""Outputs that are summed side by side."""
LANES = 16
"""Numbers of float32 in a register."""
MAX_HEAD_DIM = 128


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Weight(Structure):
    _fields_ = _fields(c_void_p, "tiles scales offsets")


class _Layer(Structure):
    _fields_ = [
        *_fields(_Weight, "qkv output gate_up down"),
        *_fields(c_void_p, "attention_norm head_norms mlp_norm keys values"),
    ]


class _Model(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        ("head", _Weight),
        ("norm", c_void_p),
        *_fields(c_int64, "layer_count hidden intermediate heads key_heads head_dim vocabulary slot_tokens"),
        *_fields(c_float, "epsilon head_epsilon scaling"),
    ]


class _Step(Structure):
    _fields_ = [
        *_fields(c_int64, "rows first_slot"),
        *_fields(c_void_p, "positions cosines sines residual logits projected normed attended gated scores"),
        *_fields(c_void_p, "rounded row_scales"),
    ]


@cache
def library() -> CDLL | None:
    """The built library; None where there is none, or where this processor cannot run it."""
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        return None
    loaded = load_library(Path(__file__).parent)
    if loaded is None:
        logger.warning("decode steps run as torch's operators: install this package again, where there is a C compiler")
    return loaded


def load_library(folder: Path) -> CDLL | None:
    """The library in a folder; None where there is none, or another than this file was written for."""
    paths = [folder / f"_decode_step{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    expected = [INTERFACE, *map(ctypes.sizeof, (_Layer, _Model, _Step)), TILE]
    try:
        loaded = ctypes.CDLL(str(path))
        if list((c_int64 * len(expected)).in_dll(loaded, "decode_step_interface")) != expected:
            return None
    except (OSError, ValueError):  # the OpenMP that it was built with is missing, or it is as old as can be
        return None
    loaded.decode_step.argtypes = [POINTER(_Model), POINTER(_Step), c_int]
    sizes, scratch = [c_int64] * 3, [c_void_p] * 2
    loaded.multiply_rows.argtypes = [POINTER(_Weight), c_void_p, *sizes, c_void_p, *scratch, c_int]
    loaded.decode_step.restype = loaded.multiply_rows.restype = None
    return loaded


def suits(decoder: "Decoder", head: nn.Linear) -> bool:
    """Whether the library is there and made for a model of this format and these sizes, as the released ones are."""
    if library() is None:
        return False
    layers = cast("list[DecoderLayer]", list(decoder.layers))
    linears = [*(linear for layer in layers for linear in _linears(layer)), head]
    return all(
        type(linear) is nn.Linear
        and linear.weight.dtype == torch.bfloat16
        and linear.bias is None
        and linear.in_features % TILE == 0
        and (linear is head or linear.out_features % TILE == 0)
        for linear in linears
    ) and all(layer.head_dim % LANES == 0 and layer.head_dim <= MAX_HEAD_DIM for layer in layers)


def _linears(layer: "DecoderLayer") -> list[nn.Module]:
    return [layer.qkv, layer.output, layer.gate_up, layer.down]


@dataclass(frozen=True, eq=False)
class NativeWeight:
    """The weight of a layer without bias, as the library takes it."""

    tiles: torch.Tensor
    """(outputs / TILE, inputs / fed, TILE, fed), the order in which it is read; `fed` is 2 of bfloat16, 4 of int8."""
    outputs: int
    """Without those, of zeros, that fill up the last tile."""
    scales: torch.Tensor | None = None
    """Of int8, (outputs,) float32; None of bfloat16."""
    offsets: torch.Tensor | None = None
    """(outputs,) what it adds to each that inputs are unsigned: 128 more than they are."""

    @classmethod
    def of(cls, weight: torch.Tensor) -> Self:
        """Of a weight in bfloat16, (outputs, inputs)."""
        return cls(_tiled(weight, fed=2), len(weight))

    @classmethod
    def of_int8(cls, weight: torch.Tensor, scales: torch.Tensor) -> Self:
        """Of a weight in int8, (outputs, inputs), and a scale for each output."""
        scales = nn.functional.pad(scales.float(), (0, -len(weight) % TILE))
        sums = nn.functional.pad(weight.sum(dim=1).float(), (0, -len(weight) % TILE))
        return cls(_tiled(weight, fed=4), len(weight), scales.contiguous(), (128 * scales * sums).contiguous())

    @property
    def padded_outputs(self) -> int:
        return len(self.tiles) * TILE

    @property
    def inputs(self) -> int:
        return self.tiles.shape[1] * self.tiles.shape[3]

    @property
    def structure(self) -> _Weight:
        """Pointers, which are good for as long as this is there."""
        scales, offsets = (None if part is None else part.data_ptr() for part in (self.scales, self.offsets))
        return _Weight(self.tiles.data_ptr(), scales, offsets)


def _tiled(weight: torch.Tensor, *, fed: int) -> torch.Tensor:
    outputs, inputs = weight.shape
    shape = (-(-outputs // TILE), inputs // fed, TILE, fed)
    tiles = mapped_zeros(shape, weight.dtype, huge_pages=weight.nbytes >= HUGE_PAGE)
    whole = outputs // TILE
    tiles[:whole] = weight.detach()[: whole * TILE].view(whole, TILE, inputs // fed, fed).transpose(1, 2)
    if rest := outputs - whole * TILE:
        tiles[whole, :, :rest] = weight.detach()[whole * TILE :].view(rest, inputs // fed, fed).transpose(0, 1)
    return tiles


class NativeLinear(nn.Module):
    """`nn.Linear` without bias for few rows, which returns float32."""

    def __init__(self, weight: NativeWeight):
        super().__init__()
        self.native = weight
        self._library = cast(CDLL, library())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (rows, in features). Returns (rows, out features) float32."""
        rows, threads = len(inputs), torch.get_num_threads()
        inputs = inputs.bfloat16().contiguous()
        output = torch.empty(rows, self.native.padded_outputs)
        rounded = torch.empty(threads, rows, self.native.inputs, dtype=torch.uint8)
        row_scales = torch.empty(threads, rows)
        self._library.multiply_rows(
            byref(self.native.structure),
            inputs.data_ptr(),
            self.native.inputs,
            self.native.padded_outputs,
            rows,
            output.data_ptr(),
            rounded.data_ptr(),
            row_scales.data_ptr(),
            threads,
        )
        return output[:, : self.native.outputs]


class NativeStep:
    """All layers of a decoder, and the head behind them, over a cache.

    A row's logits are the same whoever shares its step.
    """

    def __init__(self, decoder: "Decoder", head: NativeLinear, slots: SlotCache):
        first, *_ = layers = cast("list[DecoderLayer]", list(decoder.layers))
        self._decoder = decoder
        self._library = cast(CDLL, library())
        self._kept_alive: list[torch.Tensor | NativeWeight] = []
        """What the library has pointers to."""
        self._layers = (_Layer * len(layers))(*(self._layer(layer, *slots.layer(i)) for i, layer in enumerate(layers)))
        self._slots = slots.slots
        self._hidden, self._head_dim = first.hidden_size, first.head_dim
        self._attended = first.heads * first.head_dim
        self._projected = self._attended + 2 * first.key_heads * first.head_dim
        self._intermediate = first.intermediate_size
        self._vocabulary, self._padded_vocabulary = head.native.outputs, head.native.padded_outputs
        self._slot_tokens = slots.slot_tokens
        self._widest = max(self._hidden, self._attended, self._intermediate)
        self._model = _Model(
            layers=self._layers,
            norm=self._pointer(decoder.final_norm.weight),
            head=self._structure(head.native),
            layer_count=len(layers),
            hidden=self._hidden,
            intermediate=self._intermediate,
            heads=first.heads,
            key_heads=first.key_heads,
            head_dim=self._head_dim,
            vocabulary=self._padded_vocabulary,
            slot_tokens=self._slot_tokens,
            epsilon=decoder.final_norm.epsilon,
            head_epsilon=first.head_epsilon,
            scaling=first.scaling,
        )

    @classmethod
    def of(cls, decoder: "Decoder", head: nn.Module, slots: SlotCache) -> Self | None:
        """None where the model's weights were not laid out for it."""
        layers = cast("list[DecoderLayer]", list(decoder.layers))
        are_native = all(native_weight(linear) is not None for layer in layers for linear in _linears(layer))
        return cls(decoder, head, slots) if are_native and isinstance(head, NativeLinear) else None

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, first_slot: int) -> torch.Tensor:
        """Advance the rows in the slots from `first_slot` on.

        Args:
            embeddings: (rows, hidden) of the last token of each.
            positions: (rows,) int64, where in its slot each goes.
            first_slot: of the first row.

        Returns logits of the next token of each, (rows, vocabulary) float32.

        Raises:
            IndexError: a token would leave the cache, which the library does not notice.
        """
        rows, threads = len(positions), torch.get_num_threads()
        if not (int(positions.min()) >= 0 and int(positions.max()) < self._slot_tokens):
            raise IndexError(f"positions {positions.tolist()} in slots of {self._slot_tokens} tokens")
        if not (first_slot >= 0 and first_slot + rows <= self._slots):
            raise IndexError(f"{rows} rows from slot {first_slot} on of {self._slots}")
        cosines, sines = self._decoder.rotation(embeddings, positions)
        logits = torch.empty(rows, self._padded_vocabulary)
        tensors = {
            "positions": positions.long().contiguous(),
            "cosines": cosines.float().contiguous(),
            "sines": sines.float().contiguous(),
            "residual": embeddings.float().contiguous().clone(),
            "logits": logits,
            "projected": torch.empty(rows, self._projected),
            "normed": torch.empty(threads, rows, self._hidden, dtype=torch.bfloat16),
            "attended": torch.empty(rows, self._attended, dtype=torch.bfloat16),
            "gated": torch.empty(rows, self._intermediate, dtype=torch.bfloat16),
            "scores": torch.empty(threads, self._slot_tokens),
            "rounded": torch.empty(threads, rows, self._widest, dtype=torch.uint8),
            "row_scales": torch.empty(threads, rows),
        }
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        step = _Step(rows=rows, first_slot=first_slot, **pointers)
        self._library.decode_step(byref(self._model), byref(step), threads)
        return logits[:, : self._vocabulary]

    def _layer(self, layer: "DecoderLayer", keys: torch.Tensor, values: torch.Tensor) -> _Layer:
        products = {"qkv": layer.qkv, "output": layer.output, "gate_up": layer.gate_up, "down": layer.down}
        others = {
            "attention_norm": layer.attention_norm.weight,
            "head_norms": layer.head_weights,
            "mlp_norm": layer.mlp_norm.weight,
            "keys": keys,
            "values": values,
        }
        return _Layer(
            **{name: self._structure(cast(NativeWeight, native_weight(linear))) for name, linear in products.items()},
            **{name: self._pointer(tensor) for name, tensor in others.items()},
        )

    def _structure(self, weight: NativeWeight) -> _Weight:
        self._kept_alive.append(weight)
        return weight.structure

    def _pointer(self, tensor: torch.Tensor) -> int:
        if tensor.dtype != torch.bfloat16 or not tensor.is_contiguous():
            raise ValueError(f"the library takes no {tensor.dtype} of strides {tensor.stride()}")
        self._kept_alive.append(tensor)
        return tensor.data_ptr()


def native_weight(linear: nn.Module) -> NativeWeight | None:
    """The weight of a layer as the library takes it, where its layout has it."""
    return cast("NativeWeight | None", getattr(linear, "native", None))
