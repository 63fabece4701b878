"""The learned bias of attention that EfficientFormer's families have."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks.base import Block


class BiasedBlock(Block):
    """A block whose attention has a learned bias: one value for each head and distance (|dy|, |dx|) on a grid.

    `bias` is the table (heads, H, W) of the grid that the block was built for. Other grids are taken too: the table is
    resized bilinearly, with a warning.

    Attributes:
        grid: height and width of the keys' grid.
        query_stride: a query stands at every so many keys, in both directions.
    """

    def __init__(self, heads: int, grid: tuple[int, int], query_stride: int = 1) -> None:
        super().__init__()
        self.grid, self.query_stride = grid, query_stride
        self.bias = nn.Parameter(torch.zeros(heads, *grid))
        self.register_buffer("constant_bias", None, persistent=False)

    def bias_on(self, grid: tuple[int, int]) -> Tensor:
        """The bias (heads, queries, keys) between all positions of a grid of keys."""
        if grid == self.grid and self.constant_bias is not None:
            return self.constant_bias
        table: Tensor = self.bias
        if grid != self.grid:
            warnings.warn(
                f"attention bias resized from {self.grid} to {grid}: fine-tune at this resolution", stacklevel=2
            )
            table = resize_bias(table, grid)
        return table.flatten(1)[:, _distances(grid, self.query_stride, table.device)]

    def deploy(self) -> None:
        with torch.no_grad():
            self.constant_bias = self.bias_on(self.grid).clone()


def resize_bias(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """The bias table (heads, H, W) for another grid, resized bilinearly."""
    return F.interpolate(table[None], size=grid, mode="bilinear", align_corners=True)[0]


def _distances(grid: tuple[int, int], query_stride: int, device: torch.device) -> Tensor:
    """For every query and key the index |dy| * W + |dx| into a flattened bias table: (queries, keys)."""
    y, x = _positions(grid, 1)
    query_y, query_x = _positions(grid, query_stride)
    return ((query_y[:, None] - y).abs() * grid[1] + (query_x[:, None] - x).abs()).to(device)


def _positions(grid: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """The row and the column of every `stride`-th position of a grid."""
    rows, columns = (torch.arange(0, side, stride) for side in grid)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return y.flatten(), x.flatten()
