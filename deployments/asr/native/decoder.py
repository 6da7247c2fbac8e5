"""The language model on a CPU in one call."""

from collections.abc import Sequence
from ctypes import CDLL, byref
from itertools import accumulate
from typing import TYPE_CHECKING, Self, cast

import torch
from torch import nn

from deployments.asr.attention import PromptPiece
from deployments.asr.cache import SlotCache
from deployments.asr.native.library import (
    GROUP,
    LANES,
    MAX_HEAD_DIM,
    TILE,
    BatchStructure,
    LayerStructure,
    ModelStructure,
    PassStructure,
    PieceStructure,
    library,
)
from deployments.asr.native.weights import NativeLinear, NativeWeight, Room

if TYPE_CHECKING:
    from deployments.asr.decoder import Decoder, DecoderLayer


PRODUCTS = 4
"""Of a layer."""


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


class NativeDecoder:
    """All layers of a decoder, and the head behind them, over a cache.

    A row's logits are the same whoever shares the step.
    """

    def __init__(self, decoder: "Decoder", head: NativeLinear, slots: SlotCache):
        first, *_ = layers = cast("list[DecoderLayer]", list(decoder.layers))
        self._decoder, self._layers, self._head = decoder, layers, head
        self._library = cast(CDLL, library())
        self._kept_alive: list[object] = []
        """What the library has pointers to."""
        structures = (self._layer(layer, *slots.layer(i)) for i, layer in enumerate(layers))
        self._slots, self._slot_tokens = slots.slots, slots.slot_tokens
        self._hidden, self._head_dim = first.hidden_size, first.head_dim
        self._attended = first.heads * first.head_dim
        self._projected = self._attended + 2 * first.key_heads * first.head_dim
        self._intermediate = first.intermediate_size
        self._widest = max(self._hidden, self._attended, self._intermediate)
        self._model = ModelStructure(
            layers=(LayerStructure * len(layers))(*structures),
            norm=self._pointer(decoder.final_norm.weight),
            head=self._structure(head.native),
            layer_count=len(layers),
            hidden=self._hidden,
            intermediate=self._intermediate,
            heads=first.heads,
            key_heads=first.key_heads,
            head_dim=self._head_dim,
            vocabulary=head.native.padded_outputs,
            slot_tokens=self._slot_tokens,
            epsilon=decoder.final_norm.epsilon,
            head_epsilon=first.head_epsilon,
            scaling=first.scaling,
        )

    @classmethod
    def of(cls, decoder: "Decoder", head: nn.Module, slots: SlotCache) -> Self | None:
        """None where the model's weights were not laid out for it."""
        layers = cast("list[DecoderLayer]", list(decoder.layers))
        are_native = all(isinstance(linear, NativeLinear) for layer in layers for linear in _linears(layer))
        return cls(decoder, head, slots) if are_native and isinstance(head, NativeLinear) else None

    def __call__(
        self, embeddings: torch.Tensor, positions: torch.Tensor, first_slot: int, pieces: Sequence[PromptPiece] = ()
    ) -> torch.Tensor:
        """Advance the rows in the slots from `first_slot` on, and read pieces of prompts.

        Args:
            embeddings: (rows + tokens of pieces, hidden) of the last token of each row, and behind them of the pieces.
            positions: (rows,) int64, where in its slot each row's token goes.
            first_slot: of the first row.
            pieces: of prompts, each in another slot that is none of the rows'.

        Returns logits of the next token of each row and of each piece, (rows + pieces, vocabulary) float32.

        Raises:
            IndexError: a token would leave the cache, or has no place there, which the library does not notice.
        """
        self._check(embeddings, positions, first_slot, pieces)
        own = [torch.arange(piece.start, piece.end) for piece in pieces]
        rows = len(positions)
        positions = torch.cat([positions.long(), *own])
        _, *ends = accumulate(map(len, own), initial=rows)
        wanted = torch.tensor([*range(rows), *(end - 1 for end in ends)])
        tensors = self._room(positions, embeddings)
        structures = (PieceStructure * len(pieces))(
            *(PieceStructure(piece.slot, piece.start, piece.end - piece.start) for piece in pieces)
        )
        batch = BatchStructure(
            rows=rows, first_slot=first_slot, piece_count=len(pieces), pieces=structures, **_pointers(tensors)
        )
        tokens, wanted_count = len(embeddings), len(wanted)
        room = Room.of(tokens, self._widest)
        logits = torch.empty(wanted_count, self._head.native.padded_outputs)
        residual = torch.empty(tokens, self._hidden)
        residual.copy_(embeddings)
        scratch = {
            "wanted": wanted,
            "logits": logits,
            "residual": residual,
            "projected": tensors["projected"],
            "taken": torch.zeros(PRODUCTS * len(self._layers) + 1, dtype=torch.long),
            "gated": _narrow(tokens, self._intermediate),
        }
        through = PassStructure(wanted_count=wanted_count, room=room.structure, **_pointers(scratch))
        self._library.decode(byref(self._model), byref(batch), byref(through), torch.get_num_threads())
        return logits[:, : self._head.native.outputs]

    def _room(self, positions: torch.Tensor, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the library needs of memory for a batch."""
        cosines, sines = self._decoder.rotation(embeddings, positions)
        tokens, threads = len(embeddings), torch.get_num_threads()
        span = _rounded_up(self._slot_tokens)
        return {
            "positions": positions,
            "cosines": cosines.float().contiguous(),
            "sines": sines.float().contiguous(),
            "projected": torch.empty(tokens, self._projected),
            "attended": _narrow(tokens, self._attended),
            "scores": torch.empty(threads, GROUP, span),
            "shares": _narrow(threads, GROUP, span),
            "queries": _narrow(threads, GROUP, self._head_dim),
            "tiles": _narrow(threads, span, self._head_dim + _rounded_up(self._head_dim)),
        }

    def _check(
        self, embeddings: torch.Tensor, positions: torch.Tensor, first_slot: int, pieces: Sequence[PromptPiece]
    ) -> None:
        rows = len(positions)
        if not 0 < len(embeddings) == rows + sum(piece.tokens for piece in pieces):
            raise IndexError(f"{len(embeddings)} tokens for {rows} rows and {list(pieces)}")
        if len({piece.slot for piece in pieces}) < len(pieces):
            raise IndexError(f"two of {list(pieces)} in one slot")
        if not bool(((positions >= 0) & (positions < self._slot_tokens)).all()):
            raise IndexError(f"positions {positions.tolist()} in slots of {self._slot_tokens} tokens")
        if not (first_slot >= 0 and first_slot + rows <= self._slots):
            raise IndexError(f"{rows} rows from slot {first_slot} on of {self._slots}")
        for piece in pieces:
            is_free = not first_slot <= piece.slot < first_slot + rows
            if not (is_free and 0 <= piece.slot < self._slots and 0 <= piece.start < piece.end <= self._slot_tokens):
                raise IndexError(f"{piece} in {self._slots} slots of {self._slot_tokens} tokens")

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
            **{name: self._structure(cast(NativeLinear, linear).native) for name, linear in products.items()},
            **{name: self._pointer(tensor) for name, tensor in others.items()},
        )

    def _structure(self, weight: NativeWeight) -> object:
        self._kept_alive.append(weight)
        return weight.structure

    def _pointer(self, tensor: torch.Tensor) -> int:
        if tensor.dtype != torch.bfloat16 or not tensor.is_contiguous():
            raise ValueError(f"the library takes no {tensor.dtype} of strides {tensor.stride()}")
        self._kept_alive.append(tensor)
        return tensor.data_ptr()


def _pointers(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def _narrow(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def _rounded_up(number: int) -> int:
    return -(-number // TILE) * TILE
