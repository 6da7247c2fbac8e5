"""Muon in float32 for data-parallel CPU workers.

`torch.optim.Muon` orthogonalises in bfloat16, which a processor without bfloat16 instructions has to emulate. Here
the work is also shared: each worker orthogonalises its part of the matrices and all add up the parts.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist

# The idea: Keller Jordan et al., "Muon", 2024. The coefficients of each iteration: Amsel et al., "The Polar Express",
# 2025; they need three iterations where constant ones need five, and here this is a third of a training step.
_ITERATIONS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is a (scaled) orthogonal matrix. Takes 2-D parameters only."""

    def __init__(
        self, matrices: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            matrices: list[torch.Tensor] = group["params"]
            directions = [self._direction(matrix, group["momentum"]) for matrix in matrices]
            for matrix, update in zip(matrices, _orthogonalise_shared(directions), strict=True):
                rows, columns = matrix.shape
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _direction(self, matrix: torch.Tensor, momentum: float) -> torch.Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        assert matrix.grad is not None
        running: torch.Tensor = state["momentum"]
        running.lerp_(matrix.grad, 1 - momentum)
        return torch.lerp(matrix.grad, running, momentum)  # Nesterov


def _orthogonalise_shared(directions: list[torch.Tensor]) -> list[torch.Tensor]:
    """Every worker computes every `world size`-th matrix of a shape; the sum over workers is the whole."""
    rank, world = dist.get_rank(), dist.get_world_size()
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, direction in enumerate(directions):
        if not direction.any():  # the text model while the encoder trains alone
            continue
        low, high = sorted(direction.shape)
        by_shape[low, high].append(index)
    flat = torch.zeros(sum(direction.numel() for direction in directions))
    updates = [
        part.view_as(direction)
        for part, direction in zip(flat.split([d.numel() for d in directions]), directions, strict=True)
    ]
    for members in by_shape.values():
        mine = members[rank::world]
        if not mine:
            continue
        wide = torch.stack([_wide(directions[index]) for index in mine])
        for index, result in zip(mine, _orthogonalise(wide), strict=True):
            updates[index].copy_(result if result.shape == directions[index].shape else result.T)
    dist.all_reduce(flat)
    return updates


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Move the singular values of `(n, rows <= columns)` matrices to about 1 by a polynomial iteration."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7)
    for a, b, c in _ITERATIONS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
