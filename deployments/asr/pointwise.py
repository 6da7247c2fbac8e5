"""What the language model's layers do between their matrix products.

Each function reads and writes a tensor the size of its input and computes next to nothing: as torch's single operations
they take as long on a GPU as the products themselves. Compiled, each is one kernel.
"""

from functools import partial

import torch
from torch.nn.functional import rms_norm, silu


def rotate(
    heads: torch.Tensor, weights: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Normalise heads and turn them by their tokens' positions.

    Args:
        heads: (tokens, heads, head_dim).
        weights: (heads, head_dim) of the norm.
        cosines: (tokens, 1, head_dim).
        sines: (tokens, 1, head_dim), the first half of them negated.
        epsilon: of the norm.

    Returns the shape of `heads`.
    """
    size = heads.shape[-1]
    normed = rms_norm(heads, (size,), eps=epsilon) * weights
    return torch.addcmul(normed * cosines, normed.roll(size // 2, dims=-1), sines)


def add_and_normalise(
    hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of two (tokens, hidden), and it normalised."""
    added = hidden + change
    return added, rms_norm(added, weight.shape, weight, epsilon)


def gate(gates_and_values: torch.Tensor) -> torch.Tensor:
    """(tokens, 2 * intermediate), gates first, to (tokens, intermediate)."""
    gates, values = gates_and_values.chunk(2, dim=-1)
    return silu(gates) * values


class Pointwise:
    """The functions of this module, as they are or compiled for a GPU."""

    def __init__(self, *, compiled: bool = False):
        # Sizes stay open, so that one kernel serves any number of tokens.
        prepare = partial(torch.compile, dynamic=True) if compiled else lambda function: function
        self.rotate = prepare(rotate)
        self.add_and_normalise = prepare(add_and_normalise)
        self.gate = prepare(gate)
