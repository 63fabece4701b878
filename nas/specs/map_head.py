"""The classifier of networks that stay maps to the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from nas.specs.base import HeadSpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape

Norm = Literal["batch", "layer"]


@dataclass(frozen=True)
class MapHead(HeadSpec):
    """Norm over channels, mean over positions and a linear classifier: (B, C, H, W) to (B, classes).

    SwiftFormer (arXiv:2303.15446) and EfficientFormerV2 (arXiv:2212.08059) use batch norm and distillation, EMO
    (arXiv:2301.01146) layer norm and none.

    Attributes:
        norm: batch norm, or layer norm over the channels of each position.
        distillation: a second classifier for the teacher's labels (as in DeiT, arXiv:2012.12877). In eval mode the
            output is the mean of the two, in training both are returned; both are counted.
    """

    kind: ClassVar[str] = "map_head"
    module: ClassVar[str] = "nas.blocks.map_head:MapHeadBlock"

    classes: int
    norm: Norm = "batch"
    distillation: bool = True

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        require(self.norm in get_args(Norm), f"norm '{self.norm}' is none of {', '.join(get_args(Norm))}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        if self.norm == "batch":
            trace.batch_norm()
        else:
            trace.reshape("tokens").layer_norm()
        features = trace.mean().shape
        trace.linear(self.classes)
        if self.distillation:
            trace.extra(*Trace(features).linear(self.classes).layers)
        return trace
