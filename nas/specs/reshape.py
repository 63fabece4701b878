"""The two changes of layout between maps and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import BlockSpec
from nas.specs.layers import Trace
from nas.specs.shape import Layout, Shape


@dataclass(frozen=True)
class Flatten(BlockSpec):
    """4D to 3D: a map (B, C, H, W) to tokens (B, H*W, C). EfficientFormer does it once, before its first MB3D."""

    kind: ClassVar[str] = "flatten"
    breakdown: ClassVar[str] = "reshape"
    changes_layout: ClassVar[bool] = True
    module: ClassVar[str] = "nas.blocks.reshape:FlattenBlock"

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape).reshape("tokens")


@dataclass(frozen=True)
class Unflatten(BlockSpec):
    """3D to 4D: tokens (B, H*W, C) to a map (B, C, H, W), needed where a convolution follows a token block."""

    kind: ClassVar[str] = "unflatten"
    module: ClassVar[str] = "nas.blocks.reshape:UnflattenBlock"
    layout: ClassVar[Layout] = "tokens"
    breakdown: ClassVar[str] = "reshape"
    changes_layout: ClassVar[bool] = True

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape).reshape("map")
