"""A segmentation head on the feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks.base import Axes, Block, within
from nas.blocks.layers import ACTIVATIONS, ConvNorm, conv_axes, init_linear
from nas.blocks.mbconv import MBConvBlock
from nas.specs import FPNHead, Shape
from nas.specs.fpn_head import MOST_DEPTH, STAGES


def _level(stage: str, stream: str) -> Axes:
    return ConvNorm.axes(f"levels.{stage}", stream, None)


def _refine(index: int) -> Axes:
    return within(f"refine.{index}", MBConvBlock.axes, out=None, hidden=f"hidden{index}")


class FPNHeadBlock(Block):
    """Maps (B, C_i, H_i, W_i) of the last stages, the finest first, to scores (B, classes, H, W) at the finest one's
    size; see `nas.specs.FPNHead`."""

    # Each map comes from the stream of its stage; the last one's is the input.
    axes: ClassVar[Axes] = {
        **{name: axis for stage in range(1, STAGES) for name, axis in _level(f"stage{stage}", f"stage{stage}").items()},
        **_level(f"stage{STAGES}", "in"),
        **{name: axis for index in range(MOST_DEPTH) for name, axis in _refine(index).items()},
        **ConvNorm.axes("expand", None, "expanded"),
        **conv_axes("classifier", "expanded", None),
    }

    def __init__(self, spec: FPNHead, shape: Shape) -> None:
        super().__init__()
        levels = shape.levels
        first = STAGES - len(levels) + 1
        fused = Shape(spec.width, levels[0].height, levels[0].width)
        hidden = spec.expansion * spec.width
        self.levels = nn.ModuleDict(
            {f"stage{first + i}": ConvNorm(level.channels, spec.width, bias=False) for i, level in enumerate(levels)}
        )
        self.refine = nn.Sequential(*(MBConvBlock(spec.refine, fused) for _ in range(spec.depth)))
        self.expand = ConvNorm(spec.width, hidden, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.classifier = nn.Conv2d(hidden, spec.classes, 1)
        self.expand.apply(init_linear)
        init_linear(self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        projected = [level(x) for level, x in zip(self.levels.values(), maps, strict=True)]
        y_bchw: Tensor = projected[0]
        for small in projected[1:]:
            y_bchw = y_bchw + F.interpolate(small, size=y_bchw.shape[2:], mode="bilinear", align_corners=False)
        hidden = self.activation(self.expand(self.refine(y_bchw)))
        scores: Tensor = self.classifier(hidden)
        return scores
