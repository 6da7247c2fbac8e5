"""Attention within many sequences that go through the layers as one row, without padding between them."""

from functools import cache
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention


def flash_attention_serves(query: torch.Tensor) -> bool:
    """Whether torch's own FlashAttention computes on this device in this format."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and _is_ampere_or_later(query.device)


@cache
def _is_ampere_or_later(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


class Packed:
    """Sequences of these lengths, one after the other.

    Args:
        lengths: tokens of each; at least one sequence, none of them empty.
        device: where they are attended to.
    """

    def __init__(self, lengths: list[int], device: torch.device):
        bounds = [0, *accumulate(lengths)]
        self.spans = list(pairwise(bounds))
        self.longest = max(lengths)
        self.bounds = torch.tensor(bounds, dtype=torch.int32).to(device, non_blocking=True)
        """(sequences + 1,) where each begins and the last one ends."""


def attend_packed(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    packed: Packed,
    *,
    scaling: float,
    causal: bool,
) -> torch.Tensor:
    """Attention of every sequence to itself: on a GPU in one kernel, torch's own FlashAttention.

    Args:
        query: (tokens, heads, head_dim).
        keys: (tokens, key-value heads, head_dim); so many query heads share one as there are more of them.
        values: as `keys`.
        packed: the sequences.
        scaling: of the scores.
        causal: no token looks at later ones.

    Returns (tokens, heads, head_dim).
    """
    if flash_attention_serves(query):
        output = varlen_attn(
            query,
            keys,
            values,
            packed.bounds,
            packed.bounds,
            packed.longest,
            packed.longest,
            scale=scaling,
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=True,  # also where heads are alike: without it torch may take cuDNN's kernel on some cards
        )
        return cast(torch.Tensor, output)  # nothing besides was asked for
    repeated = query.shape[1] // keys.shape[1]
    parts = [
        _attend(query[start:end], keys[start:end], values[start:end], repeated, scaling, causal)
        for start, end in packed.spans
    ]
    return torch.cat(parts)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, repeated: int, scaling: float, causal: bool
) -> torch.Tensor:
    """One sequence; the others' tokens are not there to be masked."""
    keys, values = keys.transpose(0, 1), values.transpose(0, 1)
    if repeated > 1:
        keys, values = keys.repeat_interleave(repeated, dim=0), values.repeat_interleave(repeated, dim=0)
    output = scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys[None], values[None], is_causal=causal, scale=scaling
    )
    return output[0].transpose(0, 1)
