"""Weights in the order in which the library reads them."""

from ctypes import CDLL, byref
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import nn

from deployments.asr.mapped import HUGE_PAGE, mapped_zeros
from deployments.asr.native.library import GROUP, TILE, WeightStructure, library


@dataclass(frozen=True, eq=False)
class NativeWeight:
    """The weight of a layer without bias, as the library takes it."""

    tiles: torch.Tensor
    """(outputs / TILE, inputs / fed, TILE, fed), the order in which it is read; `fed` is 2 of bfloat16, 4 of int8."""
    outputs: int
    """Without those, of zeros, that fill up the last tile."""
    scales: torch.Tensor | None = None
    """Of int8, (outputs,) float32; None of bfloat16."""
    offsets: torch.Tensor | None = None
    """(outputs,) what it adds to each that inputs are unsigned: 128 more than they are."""

    @classmethod
    def of(cls, weight: torch.Tensor) -> Self:
        """Of a weight in bfloat16, (outputs, inputs)."""
        return cls(_tiled(weight, fed=2), len(weight))

    @classmethod
    def of_int8(cls, weight: torch.Tensor, scales: torch.Tensor) -> Self:
        """Of a weight in int8, (outputs, inputs), and a scale for each output."""
        scales = nn.functional.pad(scales.float(), (0, -len(weight) % TILE))
        sums = nn.functional.pad(weight.sum(dim=1).float(), (0, -len(weight) % TILE))
        return cls(_tiled(weight, fed=4), len(weight), scales.contiguous(), (128 * scales * sums).contiguous())

    @property
    def padded_outputs(self) -> int:
        return len(self.tiles) * TILE

    @property
    def inputs(self) -> int:
        return self.tiles.shape[1] * self.tiles.shape[3]

    @property
    def structure(self) -> WeightStructure:
        """Pointers, which are good for as long as this is there."""
        scales, offsets = (None if part is None else part.data_ptr() for part in (self.scales, self.offsets))
        return WeightStructure(self.tiles.data_ptr(), scales, offsets)


def _tiled(weight: torch.Tensor, *, fed: int) -> torch.Tensor:
    outputs, inputs = weight.shape
    shape = (-(-outputs // TILE), inputs // fed, TILE, fed)
    tiles = mapped_zeros(shape, weight.dtype, huge_pages=weight.nbytes >= HUGE_PAGE)
    whole = outputs // TILE
    tiles[:whole] = weight.detach()[: whole * TILE].view(whole, TILE, inputs // fed, fed).transpose(1, 2)
    if rest := outputs - whole * TILE:
        tiles[whole, :, :rest] = weight.detach()[whole * TILE :].view(rest, inputs // fed, fed).transpose(0, 1)
    return tiles


class NativeLinear(nn.Module):
    """`nn.Linear` without bias, which returns float32."""

    def __init__(self, weight: NativeWeight):
        super().__init__()
        self.native = weight
        self._library = cast(CDLL, library())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (rows, in features). Returns (rows, out features) float32."""
        rows, scratch = len(inputs), scratch_rows(len(inputs))
        inputs = inputs.bfloat16().contiguous()
        output = torch.empty(rows, self.native.padded_outputs)
        rounded = torch.empty(scratch, self.native.inputs, dtype=torch.uint8)
        row_scales = torch.empty(scratch)
        self._library.multiply_rows(
            byref(self.native.structure),
            inputs.data_ptr(),
            self.native.inputs,
            self.native.padded_outputs,
            rows,
            output.data_ptr(),
            rounded.data_ptr(),
            row_scales.data_ptr(),
            torch.get_num_threads(),
        )
        return output[:, : self.native.outputs]


def scratch_rows(rows: int) -> int:
    """Rows that there must be room for where inputs of a product are prepared: of few, each thread prepares all.

    See `Part` in products.h.
    """
    return rows * torch.get_num_threads() if rows <= GROUP else rows


def native_weight(linear: nn.Module) -> NativeWeight | None:
    """The weight of a layer as the library takes it, where its layout has it."""
    return cast("NativeWeight | None", getattr(linear, "native", None))
