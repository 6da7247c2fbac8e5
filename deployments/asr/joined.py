"""Linear layers of the same inputs as one: fewer, larger products."""

from collections.abc import Sequence

import torch
from torch import nn


def join(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One layer that puts out what all of these do, side by side."""
    first = linears[0]
    joined = nn.Linear(first.in_features, sum(linear.out_features for linear in linears), bias=False, device="meta")
    joined.weight = nn.Parameter(torch.cat([linear.weight for linear in linears]).detach(), requires_grad=False)
    if first.bias is not None:
        joined.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]).detach(), requires_grad=False)
    return joined
