"""The segmentation head that adds up the maps of the last stages, whole and in its parts.

Every family takes it (`Space.with_head`). EfficientViT's published segmentation networks have it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from nas.blocks.common.spec import FusedMBConv, MBConv
from nas.blocks.spec import (
    ACTIVATIONS,
    Activation,
    BlockSpec,
    Examples,
    HeadSpec,
    Layer,
    Layout,
    Shape,
    Trace,
    pyramid,
    require,
)

# Bounds of `FPNHead`. Its module lists the channel groups of all levels and MBConvs on the class,
# before the numbers of either are known.
STAGES = 4
MOST_DEPTH = 8


Middle = Literal["mbconv", "fused_mbconv"]
Resize = Literal["bilinear", "bicubic"]
AS_MIDDLE = -1
"""`FPNHead.final_expansion` of a head whose last expansion is that of its middle blocks."""


@dataclass(frozen=True)
class FPNLevel(BlockSpec):
    """A 1x1 convolution with batch norm: (B, C, H, W) to (B, width, H, W).

    It is what `FPNHead` does with the map of one stage, which latency tables have rows of.
    """

    kind: ClassVar[str] = "fpn_level"
    examples: ClassVar[Examples] = (("width=12", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.fpn.module:FPNLevelBlock"
    elastic: ClassVar[tuple[str, ...]] = ()

    width: int

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be at least 1")

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape).conv(self.width, bias=False).batch_norm()


@dataclass(frozen=True)
class FPNFuse(BlockSpec):
    """What `FPNHead` does with the maps behind their 1x1 convolutions: (B, C, H_i, W_i) to scores
    (B, classes, H, W) at the finest one's size.

    Latency tables have rows of it. The attributes are those of `FPNHead`.
    """

    kind: ClassVar[str] = "fpn_fuse"
    examples: ClassVar[Examples] = (
        ("classes=5", "pyramid:8x12x12+8x6x6+8x3x3"),
        ("classes=5;middle=fused_mbconv;final_expansion=0", "pyramid:8x12x12+8x6x6+8x3x3"),
    )
    module: ClassVar[str] = "nas.blocks.fpn.module:FPNFuseBlock"
    layout: ClassVar[Layout] = "pyramid"

    classes: int
    depth: int = 1
    expansion: int = 4
    activation: Activation = "hardswish"
    middle: Middle = "mbconv"
    final_expansion: int = AS_MIDDLE
    resize: Resize = "bilinear"

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        for name in ("depth", "expansion"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        require(self.depth <= MOST_DEPTH, f"depth {self.depth} must be at most {MOST_DEPTH}")
        require(
            self.final_expansion >= AS_MIDDLE,
            f"final_expansion {self.final_expansion} must be at least {AS_MIDDLE}",
        )
        for name, allowed in (
            ("activation", ACTIVATIONS),
            ("middle", get_args(Middle)),
            ("resize", get_args(Resize)),
        ):
            value = getattr(self, name)
            require(value in allowed, f"{name} '{value}' is not one of {', '.join(allowed)}")
        # One head has one text, and so one row of a table.
        if self.final_expansion == self.expansion:
            object.__setattr__(self, "final_expansion", AS_MIDDLE)

    @property
    def refine(self) -> MBConv | FusedMBConv:
        """Return one of the inverted bottlenecks on the fused map."""
        kind = MBConv if self.middle == "mbconv" else FusedMBConv
        return kind(self.expansion, activation=self.activation)

    def expanded(self, width: int) -> int:
        """Return the channels before the classifier; 0 where no 1x1 convolution expands them."""
        final = self.expansion if self.final_expansion == AS_MIDDLE else self.final_expansion
        return final * width

    def check(self, shape: Shape) -> None:
        widths = {level.channels for level in shape.levels}
        require(len(widths) == 1, f"expected maps of one width, got {sorted(widths)}")

    def trace(self, shape: Shape) -> Trace:
        finest, *coarser = shape.levels
        trace = Trace(finest)
        for level in coarser:
            # Coarser maps are enlarged to the finest one's size, which writes all of it, and added
            # to the sum so far.
            trace.extra(Layer("elementwise", read=level.elements, written=finest.elements))
            trace.residual()
        for _ in range(self.depth):
            trace.extra(*self.refine.layers(finest))
        expanded = self.expanded(finest.channels)
        if expanded:
            trace.conv(expanded, bias=False).batch_norm().activation(self.activation)
        return trace.conv(self.classes)


@dataclass(frozen=True)
class FPNHead(HeadSpec):
    """The maps of the last stages, added up at the finest one's size, then inverted bottlenecks: a
    class score for every position.

    EfficientViT (arXiv:2205.14756), Fig. 5, "segmentation head": 1x1 convolutions with batch norm
    bring every map to `width` channels, upsampling brings them to one size, an addition fuses them,
    inverted bottlenecks and 1x1 convolutions follow. With `levels` 3 the scores (B, classes, H/8,
    W/8) stand for 8x8 pixels each.

    Attributes:
        classes: of each position.
        width: channels of the fused map.
        depth: inverted bottlenecks on it.
        expansion: of the inverted bottlenecks.
        levels: how many stages take part, from the last backwards.
        middle: kind of the inverted bottlenecks: mbconv in the published networks of the B series,
            fused_mbconv in those of the L series.
        final_expansion: of the 1x1 convolution before the classifier; 0 has none, and `AS_MIDDLE`
            is that of the inverted bottlenecks.
        resize: interpolation of the upsampling. The published networks have bicubic; the
            authors export them to TensorFlow Lite with bilinear.
    """

    kind: ClassVar[str] = "fpn_head"
    examples: ClassVar[Examples] = (
        ("classes=5;width=8", "pyramid:8x12x12+12x6x6+16x3x3"),
        (
            "classes=5;width=8;middle=fused_mbconv;final_expansion=0",
            "pyramid:8x12x12+12x6x6+16x3x3",
        ),
    )
    module: ClassVar[str] = "nas.blocks.fpn.module:FPNHeadBlock"
    layout: ClassVar[Layout] = "pyramid"
    task: ClassVar[str] = "segmentation"
    # A shallower head is the first blocks of a deeper one: each block adds to the map that it gets.
    elastic: ClassVar[tuple[str, ...]] = ("depth", "expansion", "activation")

    classes: int
    width: int = 64
    depth: int = 1
    expansion: int = 4
    levels: int = 3
    activation: Activation = "hardswish"
    middle: Middle = "mbconv"
    final_expansion: int = AS_MIDDLE
    resize: Resize = "bilinear"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be at least 1")
        require(1 <= self.levels <= STAGES, f"levels {self.levels} must be from 1 to {STAGES}")
        # It checks the other hyperparameters, and gives equal heads one text.
        object.__setattr__(self, "final_expansion", self.fuse.final_expansion)

    @property
    def fuse(self) -> FPNFuse:
        """Return what follows the 1x1 convolutions of the levels."""
        return FPNFuse(
            classes=self.classes,
            depth=self.depth,
            expansion=self.expansion,
            activation=self.activation,
            middle=self.middle,
            final_expansion=self.final_expansion,
            resize=self.resize,
        )

    def check(self, shape: Shape) -> None:
        levels = len(shape.levels)
        require(levels == self.levels, f"expected the maps of {self.levels} stages, got {levels}")

    def parts(self, shape: Shape) -> tuple[tuple[BlockSpec, Shape], ...]:
        projection = FPNLevel(self.width)
        projections = tuple((projection, level) for level in shape.levels)
        return (*projections, (self.fuse, pyramid(self._projected(shape))))

    def trace(self, shape: Shape) -> Trace:
        projected = self._projected(shape)
        layers = [layer for spec, each in self.parts(shape) for layer in spec.layers(each)]
        fused = self.fuse.output_shape(pyramid(projected))
        return Trace(fused).extra(*layers)

    def _projected(self, shape: Shape) -> list[Shape]:
        """Return the maps behind the 1x1 convolutions."""
        return [replace(level, channels=self.width) for level in shape.levels]


SPECS = (FPNLevel, FPNFuse, FPNHead)
