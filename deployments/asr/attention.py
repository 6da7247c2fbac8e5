"""Attention of the language model over prompts and over slots, in place of transformers' own.

Those see a padded batch. Here all tokens of a forward pass come as one row: the prompts of many utterances one after
the other, or a token of each running row with a piece of a prompt behind them.
"""

import importlib.util
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "qwen3_asr_slots"
"""What the text configuration names as its attention implementation."""


class Prompts:
    """The lengths of whole prompts that go through the layers as one row, one after the other."""

    def __init__(self, lengths: list[int], device: torch.device):
        self.spans = list(pairwise([0, *accumulate(lengths)]))
        self.longest = max(lengths)
        self.bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
        """(prompts + 1,) where each begins and the last one ends."""


@dataclass(frozen=True)
class Piece:
    """The tokens `start..end` of a prompt whose earlier ones are in the cache."""

    slot: int
    start: int
    end: int


class Step:
    """One token for each of the slots from `first_slot` on, and behind them a piece of a prompt, if any.

    Args:
        first_slot: the first one.
        positions: (rows,) where in its slot each token goes.
        length: tokens of every slot that attention looks at; at least the largest position and one.
        piece: of a prompt.
    """

    def __init__(self, first_slot: int, positions: torch.Tensor, length: int, piece: Piece | None = None):
        self.rows = len(positions)
        self.slots = slice(first_slot, first_slot + self.rows)
        self.length = length
        self.mask = (torch.arange(length, device=positions.device) <= positions[:, None])[:, None, None, :]
        """(rows, 1, 1, length), True where a row looks."""
        self.piece = piece
        if piece is not None:
            seen, tokens = torch.arange(piece.end), torch.arange(piece.start, piece.end)
            self.piece_mask = (seen <= tokens[:, None]).to(positions.device, non_blocking=True)
            """(tokens of the piece, its end), True where a token looks."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    batch: Prompts | Step,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer, as transformers calls it.

    Args:
        module: the layer's attention.
        query: (1, heads, tokens, head_dim).
        keys: of the same tokens where they are `Prompts`, of all slots in a `Step`: what `SlotCache.update` returns.
        values: as `keys`.
        attention_mask: None; `batch` says who sees whom.
        scaling: of the scores.
        batch: what the tokens are.

    Returns (1, tokens, heads, head_dim), and no weights.
    """
    if isinstance(batch, Step):
        return _attend_to_slots(query, keys, values, batch, scaling).unsqueeze(0), None
    if _flash_attention_serves(query):
        return _attend_with_flash(query, keys, values, batch, scaling), None
    outputs = [
        scaled_dot_product_attention(
            query[:, :, start:end],
            _repeat(keys[:, :, start:end], query.shape[1]),
            _repeat(values[:, :, start:end], query.shape[1]),
            is_causal=True,
            scale=scaling,
        )
        for start, end in batch.spans
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend_to_slots(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step, scaling: float
) -> torch.Tensor:
    """(tokens, heads, head_dim)."""
    outputs = []
    if step.rows:
        outputs.append(_attend_with_rows(query[0, :, : step.rows], keys, values, step, scaling))
    if (piece := step.piece) is not None:
        output = scaled_dot_product_attention(
            query[:, :, step.rows :],
            _repeat(keys[piece.slot : piece.slot + 1, :, : piece.end], query.shape[1]),
            _repeat(values[piece.slot : piece.slot + 1, :, : piece.end], query.shape[1]),
            attn_mask=step.piece_mask,
            scale=scaling,
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _attend_with_rows(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step, scaling: float
) -> torch.Tensor:
    """The query heads that share a key-value head stand in as the tokens of one: nothing has to be repeated."""
    heads, rows, head_dim = query.shape
    grouped = query.transpose(0, 1).reshape(rows, keys.shape[1], heads // keys.shape[1], head_dim)
    keys, values = keys[step.slots, :, : step.length], values[step.slots, :, : step.length]
    output = scaled_dot_product_attention(grouped, keys, values, attn_mask=step.mask, scale=scaling)
    return output.reshape(rows, heads, head_dim)


def _repeat(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def _flash_attention_serves(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype != torch.float32 and importlib.util.find_spec("flash_attn") is not None


def _attend_with_flash(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Prompts, scaling: float
) -> torch.Tensor:
    """All prompts in one kernel."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]  # optional

    output: torch.Tensor = flash_attn_varlen_func(
        *(tensor[0].transpose(0, 1) for tensor in (query, keys, values)),
        cu_seqlens_q=batch.bounds,
        cu_seqlens_k=batch.bounds,
        max_seqlen_q=batch.longest,
        max_seqlen_k=batch.longest,
        softmax_scale=scaling,
        causal=True,
    )
    return output.unsqueeze(0)


AttentionInterface.register(NAME, attend)
