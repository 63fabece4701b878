"""A segmentation head on the feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, HeadSpec, Task, require
from nas.specs.layers import Layer, Trace
from nas.specs.mbconv import MBConv
from nas.specs.shape import Layout, Shape

STAGES = 4
MOST_DEPTH = 8


@dataclass(frozen=True)
class FPNHead(HeadSpec):
    """The maps of the last stages, added up at the finest one's size, then MBConvs: a class score for every position.

    EfficientViT (arXiv:2205.14756), Fig. 5, "segmentation head": 1x1 convolutions with batch norm bring every map to
    `width` channels, bilinear upsampling to one size, an addition fuses them, MBConvs and 1x1 convolutions follow.
    With `levels` 3 the scores (B, classes, H/8, W/8) stand for 8x8 pixels each.

    Attributes:
        classes: of each position.
        width: channels of the fused map.
        depth: MBConvs on it.
        expansion: of the MBConvs, and of the 1x1 convolution before the classifier.
        levels: how many stages take part, from the last backwards.
    """

    kind: ClassVar[str] = "fpn_head"
    module: ClassVar[str] = "nas.blocks.fpn_head:FPNHeadBlock"
    layout: ClassVar[Layout] = "pyramid"
    task: ClassVar[Task] = "segmentation"

    classes: int
    width: int = 64
    depth: int = 1
    expansion: int = 4
    levels: int = 3
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        for name in ("width", "depth", "expansion"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        require(self.depth <= MOST_DEPTH, f"depth {self.depth} must be at most {MOST_DEPTH}")
        require(1 <= self.levels <= STAGES, f"levels {self.levels} must be from 1 to {STAGES}")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    @property
    def refine(self) -> MBConv:
        """One of the MBConvs on the fused map."""
        return MBConv(self.expansion, activation=self.activation)

    def check(self, shape: Shape) -> None:
        found = len(shape.levels)
        require(found == self.levels, f"expected the maps of {self.levels} stages, found {found}")

    def trace(self, shape: Shape) -> Trace:
        levels = shape.levels
        fused = Shape(self.width, levels[0].height, levels[0].width)
        layers: list[Layer] = []
        for level in levels:
            layers += Trace(level).conv(self.width, bias=False).batch_norm().layers
            if level is not levels[0]:
                small = replace(level, channels=self.width)
                layers.append(Layer("elementwise", read=small.elements, written=fused.elements))
                layers += Trace(fused).residual().layers
        trace = Trace(fused).extra(*layers)
        for _ in range(self.depth):
            trace.extra(*self.refine.layers(fused))
        trace.conv(self.expansion * self.width, bias=False).batch_norm().activation(self.activation)
        return trace.conv(self.classes)
