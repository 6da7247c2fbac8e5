"""Decode steps of a model in one call."""

from ctypes import CDLL, byref
from typing import TYPE_CHECKING, Self, cast

import torch
from torch import nn

from deployments.asr.cache import SlotCache
from deployments.asr.native.library import (
    LANES,
    MAX_HEAD_DIM,
    TILE,
    LayerStructure,
    ModelStructure,
    StepStructure,
    WeightStructure,
    library,
)
from deployments.asr.native.weights import NativeLinear, NativeWeight, native_weight

if TYPE_CHECKING:
    from deployments.asr.decoder import Decoder, DecoderLayer


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
        self._layers = (LayerStructure * len(layers))(
            *(self._layer(layer, *slots.layer(i)) for i, layer in enumerate(layers))
        )
        self._slots = slots.slots
        self._hidden, self._head_dim = first.hidden_size, first.head_dim
        self._attended = first.heads * first.head_dim
        self._projected = self._attended + 2 * first.key_heads * first.head_dim
        self._intermediate = first.intermediate_size
        self._vocabulary, self._padded_vocabulary = head.native.outputs, head.native.padded_outputs
        self._slot_tokens = slots.slot_tokens
        self._widest = max(self._hidden, self._attended, self._intermediate)
        self._model = ModelStructure(
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
        step = StepStructure(rows=rows, first_slot=first_slot, **pointers)
        self._library.decode_step(byref(self._model), byref(step), threads)
        return logits[:, : self._vocabulary]

    def _layer(self, layer: "DecoderLayer", keys: torch.Tensor, values: torch.Tensor) -> LayerStructure:
        products = {"qkv": layer.qkv, "output": layer.output, "gate_up": layer.gate_up, "down": layer.down}
        others = {
            "attention_norm": layer.attention_norm.weight,
            "head_norms": layer.head_weights,
            "mlp_norm": layer.mlp_norm.weight,
            "keys": keys,
            "values": values,
        }
        return LayerStructure(
            **{name: self._structure(cast(NativeWeight, native_weight(linear))) for name, linear in products.items()},
            **{name: self._pointer(tensor) for name, tensor in others.items()},
        )

    def _structure(self, weight: NativeWeight) -> WeightStructure:
        self._kept_alive.append(weight)
        return weight.structure

    def _pointer(self, tensor: torch.Tensor) -> int:
        if tensor.dtype != torch.bfloat16 or not tensor.is_contiguous():
            raise ValueError(f"the library takes no {tensor.dtype} of strides {tensor.stride()}")
        self._kept_alive.append(tensor)
        return tensor.data_ptr()
