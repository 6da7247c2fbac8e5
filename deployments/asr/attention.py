"""Attention of the language model over prompts and over slots.

All tokens of a forward pass come as one row, without padding: the prompts of many utterances one after the other, or a
token of each running row with pieces of prompts behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from deployments.asr.packed import Packed, attend_packed, flash_attention_serves


@dataclass(frozen=True)
class PromptPiece:
    """The tokens `start..end` of a prompt whose earlier ones are in the cache."""

    slot: int
    start: int
    end: int

    @property
    def tokens(self) -> int:
        """How many."""
        return self.end - self.start


class Step:
    """One token for each of the slots from `first_slot` on, and behind them pieces of prompts, if any.

    Args:
        first_slot: the first one.
        positions: (rows,) where in its slot each token goes.
        length: tokens of every slot that attention looks at; at least the largest position and one.
        pieces: of prompts.
    """

    def __init__(self, first_slot: int, positions: torch.Tensor, length: int, pieces: Sequence[PromptPiece] = ()):
        self.rows = len(positions)
        self.slots = slice(first_slot, first_slot + self.rows)
        self.length = length
        self.pieces = pieces
        self.piece_masks = [_piece_mask(piece).to(positions.device, non_blocking=True) for piece in pieces]
        """For each (its tokens, its end), True where a token looks."""
        self._positions = positions

    @cached_property
    def mask(self) -> torch.Tensor:
        """(rows, 1, 1, length), True where a row looks."""
        seen = torch.arange(self.length, device=self._positions.device)
        return (seen <= self._positions[:, None])[:, None, None, :]

    @cached_property
    def lengths(self) -> torch.Tensor:
        """(rows,) int32, tokens in each slot, the new one included."""
        return (self._positions + 1).int()

    @cached_property
    def row_bounds(self) -> torch.Tensor:
        """(rows + 1,) int32, where each row's one token begins and the last one's ends."""
        return torch.arange(self.rows + 1, dtype=torch.int32, device=self._positions.device)


def _piece_mask(piece: PromptPiece) -> torch.Tensor:
    seen, tokens = torch.arange(piece.end), torch.arange(piece.start, piece.end)
    return seen <= tokens[:, None]


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cached: tuple[torch.Tensor, torch.Tensor],
    *,
    scaling: float,
    batch: Packed | Step,
) -> torch.Tensor:
    """Attention of one layer.

    Args:
        query: (tokens, heads, head_dim).
        keys: (tokens, key-value heads, head_dim).
        values: as `keys`.
        cached: keys and values of all slots, those of these tokens included: (slots, key-value heads, slot_tokens,
            head_dim) both.
        scaling: of the scores.
        batch: what the tokens are: whole prompts, or a step.

    Returns (tokens, heads, head_dim).
    """
    if isinstance(batch, Step):
        return _attend_to_slots(query, *cached, batch, scaling)
    return attend_packed(query, keys, values, batch, scaling=scaling, causal=True)


def _attend_to_slots(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step, scaling: float
) -> torch.Tensor:
    outputs = []
    if step.rows:
        outputs.append(_attend_with_rows(query[: step.rows], keys, values, step, scaling))
    queries = query[step.rows :].split([piece.tokens for piece in step.pieces])
    for own, piece, mask in zip(queries, step.pieces, step.piece_masks, strict=True):
        in_slot = (piece.slot, slice(None), slice(piece.end))
        outputs.append(_attend_to_piece(own, keys[in_slot], values[in_slot], mask, scaling))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _attend_with_rows(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step, scaling: float
) -> torch.Tensor:
    if flash_attention_serves(query):
        return _attend_with_flash(query, keys, values, step, scaling)
    # The query heads that share a key-value head stand in as the tokens of one: nothing has to be repeated.
    rows, heads, head_dim = query.shape
    grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], head_dim)
    keys, values = keys[step.slots, :, : step.length], values[step.slots, :, : step.length]
    output = scaled_dot_product_attention(grouped, keys, values, attn_mask=step.mask, scale=scaling)
    return output.reshape(rows, heads, head_dim)


def _attend_with_flash(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step, scaling: float
) -> torch.Tensor:
    """Reads of each slot what is in it, and no more. The cache is laid out so that these are views."""
    slot_tokens = keys.shape[2]
    output = varlen_attn(
        query,
        keys.transpose(1, 2).flatten(0, 1),
        values.transpose(1, 2).flatten(0, 1),
        step.row_bounds,
        (step.row_bounds + step.slots.start) * slot_tokens,
        1,
        step.length,
        scale=scaling,
        enable_gqa=True,
        seqused_k=step.lengths,
    )
    return cast(torch.Tensor, output)


def _attend_to_piece(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Of one sequence, its query (tokens, heads, head_dim), its keys (key-value heads, length, head_dim)."""
    output = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys.repeat_interleave(query.shape[1] // len(keys), dim=0)[None],
        values.repeat_interleave(query.shape[1] // len(values), dim=0)[None],
        attn_mask=mask,
        scale=scaling,
    )
    return output[0].transpose(0, 1)
