"""Weights in the order in which the library reads them."""

from ctypes import CDLL, byref
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import nn

from deployments.asr.mapped import HUGE_PAGE, mapped_zeros
from deployments.asr.native.library import GROUP, TILE, RoomStructure, WeightStructure, library


@dataclass(frozen=True, eq=False)
class NativeWeight:
    """The weight of a layer, as the library takes it."""

    tiles: torch.Tensor
    """(outputs / TILE, inputs / fed, TILE, fed), the order in which it is read; `fed` is 2 of bfloat16, 4 of int8."""
    outputs: int
    """Without those, of zeros, that fill up the last tile."""
    scales: torch.Tensor | None = None
    """Of int8, (outputs,) float32; None of bfloat16."""
    offsets: torch.Tensor | None = None
    """(outputs,) what it adds to each that inputs are unsigned: 128 more than they are."""
    biases: torch.Tensor | None = None
    """(outputs,) float32."""

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Self:
        """Of a weight in bfloat16, (outputs, inputs), and what is added to its outputs."""
        return cls(_tiled(weight, fed=2), len(weight), biases=_padded(bias))

    @classmethod
    def of_int8(cls, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None = None) -> Self:
        """Of a weight in int8, (outputs, inputs), with a scale for each output."""
        offsets = 128 * scales.float() * weight.sum(dim=1).float()
        return cls(_tiled(weight, fed=4), len(weight), _padded(scales), _padded(offsets), _padded(bias))

    @property
    def padded_outputs(self) -> int:
        return len(self.tiles) * TILE

    @property
    def inputs(self) -> int:
        return self.tiles.shape[1] * self.tiles.shape[3]

    @property
    def structure(self) -> WeightStructure:
        """Pointers, which are good for as long as this is there."""
        optional = (self.scales, self.offsets, self.biases)
        return WeightStructure(self.tiles.data_ptr(), *(None if part is None else part.data_ptr() for part in optional))


def _tiled(weight: torch.Tensor, *, fed: int) -> torch.Tensor:
    outputs, inputs = weight.shape
    shape = (-(-outputs // TILE), inputs // fed, TILE, fed)
    tiles = mapped_zeros(shape, weight.dtype, huge_pages=weight.nbytes >= HUGE_PAGE)
    whole = outputs // TILE
    tiles[:whole] = weight.detach()[: whole * TILE].view(whole, TILE, inputs // fed, fed).transpose(1, 2)
    if rest := outputs - whole * TILE:
        tiles[whole, :, :rest] = weight.detach()[whole * TILE :].view(rest, inputs // fed, fed).transpose(0, 1)
    return tiles


def _padded(numbers: torch.Tensor | None) -> torch.Tensor | None:
    """One for each output, zeros for those that fill up the last tile."""
    if numbers is None:
        return None
    return nn.functional.pad(numbers.detach().float(), (0, -len(numbers) % TILE)).contiguous()


@dataclass(frozen=True, eq=False)
class Room:
    """Where the library puts the inputs of its products. See `Part` in products.h."""

    numbers: torch.Tensor
    row_scales: torch.Tensor

    @classmethod
    def of(cls, rows: int, widest: int) -> Self:
        """For products of so many rows or fewer, with so many inputs or fewer."""
        # Of a few rows each thread prepares all: a few may take more room than many.
        rows = max(rows, min(rows, GROUP) * torch.get_num_threads())
        return cls(torch.empty(rows, widest, dtype=torch.bfloat16), torch.empty(rows))

    @property
    def structure(self) -> RoomStructure:
        """Pointers, which are good for as long as this is there."""
        return RoomStructure(self.numbers.data_ptr(), self.row_scales.data_ptr())


class NativeLinear(nn.Module):
    """`nn.Linear` that returns float32."""

    def __init__(self, weight: NativeWeight):
        super().__init__()
        self.native = weight
        self._library = cast(CDLL, library())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (rows, in features). Returns (rows, out features) float32."""
        rows, room = len(inputs), Room.of(len(inputs), self.native.inputs)
        inputs = inputs.bfloat16().contiguous()
        output = torch.empty(rows, self.native.padded_outputs)
        if not rows:  # the library divides rows among groups
            return output[:, : self.native.outputs]
        self._library.multiply_rows(
            byref(self.native.structure),
            inputs.data_ptr(),
            self.native.inputs,
            self.native.padded_outputs,
            rows,
            output.data_ptr(),
            byref(room.structure),
            torch.get_num_threads(),
        )
        return output[:, : self.native.outputs]
