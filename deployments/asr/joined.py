"""Linear layers of the same inputs as one: fewer, larger products."""

from collections.abc import Sequence

import torch
from torch import nn


def join(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One layer that puts out what all of these do, side by side."""
    first = linears[0]
    joined = nn.Linear(first.in_features, sum(linear.out_features for linear in linears), bias=False, device="meta")
    joined.weight = nn.Parameter(torch.cat([linear.weight for linear in linears]).detach(), requires_grad=False)
    if any(linear.bias is not None for linear in linears):
        joined.bias = nn.Parameter(torch.cat([_bias_of(linear) for linear in linears]), requires_grad=False)
    return joined


def _bias_of(linear: nn.Linear) -> torch.Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
