"""EfficientFormer's classifier."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import init_linear, linear_axes, norm_axes
from nas.specs import Shape, TokenHead


class TokenHeadBlock(Block):
    """(B, N, C) to (B, classes); with distillation a pair of them in training mode. See `nas.specs.TokenHead`."""

    axes: ClassVar[Axes] = {
        **norm_axes("norm", "in"),
        **linear_axes("classifier", "in", None),
        **linear_axes("distilled", "in", None),
    }
    published: ClassVar[Published] = {
        "efficientformer/official": {"norm": "norm", "classifier": "head", "distilled": "dist_head"},
        "efficientformer/timm": {"norm": "norm", "classifier": "head", "distilled": "head_dist"},
    }

    def __init__(self, spec: TokenHead, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.channels)
        self.classifier = nn.Linear(shape.channels, spec.classes)
        self.distilled = nn.Linear(shape.channels, spec.classes) if spec.distillation else None
        self.apply(init_linear)

    def forward(self, x_bnc: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.norm(x_bnc).mean(dim=1)
        logits: Tensor = self.classifier(features)
        if self.distilled is None:
            return logits
        distilled = self.distilled(features)
        return (logits, distilled) if self.training else (logits + distilled) / 2

    def deploy(self) -> None:
        """Merges the two classifiers into the one that gives their mean."""
        if self.distilled is not None:
            with torch.no_grad():
                self.classifier.weight.add_(self.distilled.weight).div_(2)
                self.classifier.bias.add_(self.distilled.bias).div_(2)
            self.distilled = None
