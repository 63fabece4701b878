"""The two changes of layout between maps and tokens."""

from __future__ import annotations

from torch import Tensor

from nas.blocks.base import Block
from nas.blocks.layers import grid_of, to_map, to_tokens
from nas.specs import BlockSpec, Shape


class FlattenBlock(Block):
    """(B, C, H, W) to (B, H*W, C)."""

    def __init__(self, spec: BlockSpec, shape: Shape) -> None:
        super().__init__()

    def forward(self, x_bchw: Tensor) -> Tensor:
        return to_tokens(x_bchw)


class UnflattenBlock(Block):
    """(B, H*W, C) to (B, C, H, W)."""

    takes_grid = True

    def __init__(self, spec: BlockSpec, shape: Shape) -> None:
        super().__init__()
        self.grid = (shape.height, shape.width)

    def forward(self, x_bnc: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return to_map(x_bnc, grid or grid_of(x_bnc.shape[1], self.grid))
