"""EfficientFormer's classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import HeadSpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Layout, Shape


@dataclass(frozen=True)
class TokenHead(HeadSpec):
    """Layer norm, mean over tokens and a linear classifier: (B, N, C) to (B, classes).

    With `distillation` there is a second classifier for the teacher's labels (as in DeiT, arXiv:2012.12877). In eval
    mode the output is the mean of the two, in training both are returned; both are counted.
    """

    kind: ClassVar[str] = "token_head"
    module: ClassVar[str] = "nas.blocks.token_head:TokenHeadBlock"
    layout: ClassVar[Layout] = "tokens"

    classes: int
    distillation: bool = True

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).layer_norm().mean()
        features = trace.shape
        trace.linear(self.classes)
        if self.distillation:
            trace.extra(*Trace(features).linear(self.classes).layers)
        return trace
