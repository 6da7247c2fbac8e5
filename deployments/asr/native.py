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
from deployments.asr.mapped import mapped_zeros

if TYPE_CHECKING:
    from deployments.asr.decoder import Decoder, DecoderLayer

logger = logging.getLogger("ray.serve.asr")

TILE = 32
"""Outputs that are summed side by side. Sizes are multiples of it, but for the vocabulary, which is filled up."""


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
    paths = [Path(__file__).with_name(f"_decode_step{suffix}") for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:  # it needs the OpenMP of the compiler that it was built with
        logger.exception("decode steps run as torch's operators")
        return None
    loaded.decode_step.argtypes = [POINTER(_Model), POINTER(_Step), c_int]
    loaded.multiply_rows.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int]
    loaded.decode_step.restype = loaded.multiply_rows.restype = None
    return loaded


def suits(linear: nn.Linear) -> bool:
    """Whether the library is there and multiplies with the weight of this layer."""
    return (
        library() is not None
        and linear.weight.dtype == torch.bfloat16
        and linear.bias is None
        and linear.in_features % TILE == 0
    )


def tiled(weight: torch.Tensor) -> torch.Tensor:
    """A weight, (outputs, inputs), in the order in which it is read: (outputs / TILE, inputs / 2, TILE, 2).

    Outputs that are missing from the last tile are zeros.
    """
    outputs, inputs = weight.shape
    tiles = mapped_zeros((-(-outputs // TILE), inputs // 2, TILE, 2), weight.dtype, huge_pages=True)
    whole = outputs // TILE
    tiles[:whole] = weight.detach()[: whole * TILE].view(whole, TILE, inputs // 2, 2).transpose(1, 2)
    if rest := outputs - whole * TILE:
        tiles[whole, :, :rest] = weight.detach()[whole * TILE :].view(rest, inputs // 2, 2).transpose(0, 1)
    return tiles


class NativeLinear(nn.Module):
    """`nn.Linear` for few rows, which returns float32.

    Args:
        tiles: its weight, `tiled`.
        outputs: how many it has.
    """

    def __init__(self, tiles: torch.Tensor, outputs: int):
        super().__init__()
        self.tiles = tiles
        self.out_features, self.in_features = outputs, tiles.shape[1] * 2
        self.summed = len(tiles) * TILE
        """Outputs with those that fill up the last tile."""
        self._library = cast(CDLL, library())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (rows, in features). Returns (rows, out features) float32."""
        inputs = inputs.bfloat16().contiguous()
        output = torch.empty(len(inputs), self.summed)
        self._library.multiply_rows(
            self.tiles.data_ptr(),
            inputs.data_ptr(),
            self.in_features,
            self.summed,
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
        self._used: list[torch.Tensor] = []
        """Holds what the library has pointers to."""
        self._layers = (_Layer * len(layers))(*(self._layer(layer, *slots.layer(i)) for i, layer in enumerate(layers)))
        self._hidden, self._head_dim = first.hidden_size, first.head_dim
        self._attended = first.heads * first.head_dim
        self._projected = self._attended + 2 * first.key_heads * first.head_dim
        self._intermediate = first.intermediate_size
        self._vocabulary, self._summed, self._slot_tokens = head.out_features, head.summed, slots.slot_tokens
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
            vocabulary=self._summed,
            slot_tokens=self._slot_tokens,
            epsilon=decoder.final_norm.epsilon,
            head_epsilon=first.head_epsilon,
            scaling=first.scaling,
        )

    @classmethod
    def of(cls, decoder: "Decoder", head: nn.Module, slots: SlotCache) -> Self | None:
        """None where the model's weights were not laid out for it, or the library is not made for its sizes."""
        layers = cast("list[DecoderLayer]", list(decoder.layers))
        linears = [linear for layer in layers for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)]
        if not isinstance(head, NativeLinear) or any(tiles_of(linear) is None for linear in linears):
            return None
        return cls(decoder, head, slots) if layers[0].head_dim % TILE == 0 else None

    def __call__(self, embeddings: torch.Tensor, positions: torch.Tensor, first_slot: int) -> torch.Tensor:
        """Advance the rows in the slots from `first_slot` on.

        Args:
            embeddings: (rows, hidden) of the last token of each.
            positions: (rows,) int64, where in its slot each goes.
            first_slot: of the first row.

        Returns logits of the next token of each, (rows, vocabulary) float32.
        """
        rows, threads = len(positions), torch.get_num_threads()
        cosines, sines = self._decoder.rotation(embeddings, positions)
        logits = torch.empty(rows, self._summed)
        tensors = {
            "positions": positions,
            "cosines": cosines.float().contiguous(),
            "sines": sines.float().contiguous(),
            "residual": embeddings.float().clone(),
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
        tensor = tensor.detach().contiguous()
        self._used.append(tensor)
        return tensor.data_ptr()


def tiles_of(linear: nn.Module) -> torch.Tensor | None:
    """The weight of a layer as the library takes it, where its layout has it."""
    return cast("torch.Tensor | None", getattr(linear, "tiles", None))
