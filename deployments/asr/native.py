"""Decode steps in one call of `decode_step.c`, on a CPU that multiplies bfloat16.

The library is built where this package is installed and there is a C compiler, and used where the processor has AVX-512
BF16. Elsewhere, and for other formats, torch's operators do the same.
"""

import ctypes
import logging
from ctypes import CDLL, POINTER, Structure, byref, c_float, c_int, c_int64, c_void_p
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

INTERFACE = 1
"""Of the library, which was built when this package was last installed, and may be older than this file."""
TILE = 32
"""Outputs that are summed side by side."""
LANES = 16
"""Numbers of float32 in a register."""
MAX_HEAD_DIM = 128


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Layer(Structure):
    _fields_ = _fields(c_void_p, "attention_norm qkv head_norms output mlp_norm gate_up down keys values")


class _Model(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        *_fields(c_void_p, "norm head"),
        *_fields(c_int64, "layer_count hidden intermediate heads key_heads head_dim vocabulary slot_tokens"),
        *_fields(c_float, "epsilon head_epsilon scaling"),
    ]


class _Step(Structure):
    _fields_ = [
        *_fields(c_int64, "rows first_slot"),
        *_fields(c_void_p, "positions cosines sines residual logits projected normed attended gated scores"),
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
    loaded.multiply_rows.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int]
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


def tiled(weight: torch.Tensor) -> torch.Tensor:
    """A weight, (outputs, inputs), in the order in which it is read: (outputs / TILE, inputs / 2, TILE, 2).

    Outputs that are missing from the last tile are zeros.
    """
    outputs, inputs = weight.shape
    shape = (-(-outputs // TILE), inputs // 2, TILE, 2)
    tiles = mapped_zeros(shape, weight.dtype, huge_pages=weight.nbytes >= HUGE_PAGE)
    whole = outputs // TILE
    tiles[:whole] = weight.detach()[: whole * TILE].view(whole, TILE, inputs // 2, 2).transpose(1, 2)
    if rest := outputs - whole * TILE:
        tiles[whole, :, :rest] = weight.detach()[whole * TILE :].view(rest, inputs // 2, 2).transpose(0, 1)
    return tiles


class NativeLinear(nn.Module):
    """`nn.Linear` without bias for few rows, which returns float32.

    Args:
        tiles: its weight, `tiled`.
        outputs: how many it has.
    """

    def __init__(self, tiles: torch.Tensor, outputs: int):
        super().__init__()
        self.tiles = tiles
        self.out_features, self.in_features = outputs, tiles.shape[1] * 2
        self.padded_outputs = len(tiles) * TILE
        self._library = cast(CDLL, library())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (rows, in features). Returns (rows, out features) float32."""
        inputs = inputs.bfloat16().contiguous()
        output = torch.empty(len(inputs), self.padded_outputs)
        self._library.multiply_rows(
            self.tiles.data_ptr(),
            inputs.data_ptr(),
            self.in_features,
            self.padded_outputs,
            len(inputs),
            output.data_ptr(),
            torch.get_num_threads(),
        )
        return output[:, : self.out_features]


class NativeStep:
    """All layers of a decoder, and the head behind them, over a cache.

    A row's logits are the same whoever shares its step.
    """

    def __init__(self, decoder: "Decoder", head: NativeLinear, slots: SlotCache):
        first, *_ = layers = cast("list[DecoderLayer]", list(decoder.layers))
        self._decoder = decoder
        self._library = cast(CDLL, library())
        self._kept_alive: list[torch.Tensor] = []
        """What the library has pointers to."""
        self._layers = (_Layer * len(layers))(*(self._layer(layer, *slots.layer(i)) for i, layer in enumerate(layers)))
        self._slots = slots.slots
        self._hidden, self._head_dim = first.hidden_size, first.head_dim
        self._attended = first.heads * first.head_dim
        self._projected = self._attended + 2 * first.key_heads * first.head_dim
        self._intermediate = first.intermediate_size
        self._vocabulary, self._padded_vocabulary, self._slot_tokens = (
            head.out_features,
            head.padded_outputs,
            slots.slot_tokens,
        )
        self._model = _Model(
            layers=self._layers,
            norm=self._pointer(decoder.final_norm.weight),
            head=self._pointer(head.tiles),
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
        has_tiles = all(tiles_of(linear) is not None for layer in layers for linear in _linears(layer))
        return cls(decoder, head, slots) if has_tiles and isinstance(head, NativeLinear) else None

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
        }
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        step = _Step(rows=rows, first_slot=first_slot, **pointers)
        self._library.decode_step(byref(self._model), byref(step), threads)
        return logits[:, : self._vocabulary]

    def _layer(self, layer: "DecoderLayer", keys: torch.Tensor, values: torch.Tensor) -> _Layer:
        weights = {
            "attention_norm": layer.attention_norm.weight,
            "qkv": tiles_of(layer.qkv),
            "head_norms": layer.head_weights,
            "output": tiles_of(layer.output),
            "mlp_norm": layer.mlp_norm.weight,
            "gate_up": tiles_of(layer.gate_up),
            "down": tiles_of(layer.down),
            "keys": keys,
            "values": values,
        }
        return _Layer(**{name: self._pointer(cast(torch.Tensor, weight)) for name, weight in weights.items()})

    def _pointer(self, tensor: torch.Tensor) -> int:
        if tensor.dtype != torch.bfloat16 or not tensor.is_contiguous():
            raise ValueError(f"the library takes no {tensor.dtype} of strides {tensor.stride()}")
        self._kept_alive.append(tensor)
        return tensor.data_ptr()


def tiles_of(linear: nn.Module) -> torch.Tensor | None:
    """The weight of a layer as the library takes it, where its layout has it."""
    return cast("torch.Tensor | None", getattr(linear, "tiles", None))
