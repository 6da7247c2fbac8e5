"""Attention of the language model over packed prompts and over slots, in place of transformers' own.

Those see a padded batch. Here a prefill brings prompts of many lengths as one row, and a decode step one token a slot.
"""

import importlib.util
from itertools import accumulate, pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "qwen3_asr_slots"
"""What the text configuration names as its attention implementation."""


class Prompts:
    """The lengths of prompts that go through the layers as one row, one after the other."""

    def __init__(self, lengths: list[int], device: torch.device):
        self.spans = list(pairwise([0, *accumulate(lengths)]))
        self.longest = max(lengths)
        self.bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
        """(prompts + 1,) where each begins and the last one ends."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    prompts: Prompts | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer, as transformers calls it.

    Args:
        module: the layer's attention.
        query: (rows, heads, tokens, head_dim); one row of all tokens in a prefill, one token a row in a decode step.
        keys: (rows, key-value heads, length, head_dim).
        values: as `keys`.
        attention_mask: (rows, 1, 1, length), True where a decode step looks; None in a prefill.
        scaling: of the scores.
        prompts: the lengths of the prompts in a prefill; None in a decode step.

    Returns (rows, tokens, heads, head_dim), and no weights.
    """
    if prompts is None:
        return _attend_to_slots(query, keys, values, attention_mask, scaling), None
    if _flash_attention_serves(query):
        return _attend_with_flash(query, keys, values, prompts, scaling), None
    outputs = [
        scaled_dot_product_attention(
            query[:, :, start:end],
            _repeat(keys[:, :, start:end], query.shape[1]),
            _repeat(values[:, :, start:end], query.shape[1]),
            is_causal=True,
            scale=scaling,
        )
        for start, end in prompts.spans
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend_to_slots(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """The query heads that share a key-value head stand in as the tokens of one: nothing has to be repeated."""
    rows, heads, _, head_dim = query.shape
    grouped = query.view(rows, keys.shape[1], heads // keys.shape[1], head_dim)
    output = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
    return output.reshape(rows, 1, heads, head_dim)


def _repeat(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def _flash_attention_serves(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype != torch.float32 and importlib.util.find_spec("flash_attn") is not None


def _attend_with_flash(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, prompts: Prompts, scaling: float
) -> torch.Tensor:
    """All prompts in one kernel."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]  # optional

    output: torch.Tensor = flash_attn_varlen_func(
        *(tensor[0].transpose(0, 1) for tensor in (query, keys, values)),
        cu_seqlens_q=prompts.bounds,
        cu_seqlens_k=prompts.bounds,
        max_seqlen_q=prompts.longest,
        max_seqlen_k=prompts.longest,
        softmax_scale=scaling,
        causal=True,
    )
    return output.unsqueeze(0)


AttentionInterface.register(NAME, attend)
