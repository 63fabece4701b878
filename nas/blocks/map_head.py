"""The classifier of networks that stay maps to the end."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import batch_norm_axes, fold_into_next, init_linear, linear_axes, to_tokens
from nas.specs import MapHead, Shape

_OFFICIAL = {"norm": "norm", "classifier": "head", "distilled": "dist_head"}
_TIMM = {"norm": "norm", "classifier": "head", "distilled": "head_dist"}

LAYER_NORM_EPS = 1e-6
"""EMO's; its code gives it to all of its norms."""


class MapHeadBlock(Block):
    """(B, C, H, W) to (B, classes); with distillation a pair of them in training mode. See `nas.specs.MapHead`."""

    axes: ClassVar[Axes] = {
        **batch_norm_axes("norm", "in"),
        **linear_axes("classifier", "in", None),
        **linear_axes("distilled", "in", None),
    }
    published: ClassVar[Published] = {
        "swiftformer/official": _OFFICIAL,
        "swiftformer/timm": _TIMM,
        "efficientformerv2/official": _OFFICIAL,
        "efficientformerv2/timm": _TIMM,
        # EMO has no second classifier: its name here is only what a message about a missing one says.
        "emo/official": {"norm": "norm.norm", "classifier": "head", "distilled": "dist_head"},
    }

    def __init__(self, spec: MapHead, shape: Shape) -> None:
        super().__init__()
        self.norm: nn.Module
        if spec.norm == "batch":
            self.norm = nn.BatchNorm2d(shape.channels)
        else:
            self.norm = nn.LayerNorm(shape.channels, eps=LAYER_NORM_EPS)
        self.classifier = nn.Linear(shape.channels, spec.classes)
        self.distilled = nn.Linear(shape.channels, spec.classes) if spec.distillation else None
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(self.norm, nn.LayerNorm):
            features = self.norm(to_tokens(x_bchw)).mean(dim=1)
        else:
            features = self.norm(x_bchw).mean(dim=(2, 3))
        logits: Tensor = self.classifier(features)
        if self.distilled is None:
            return logits
        distilled = self.distilled(features)
        return (logits, distilled) if self.training else (logits + distilled) / 2

    def deploy(self) -> None:
        """Merges the two classifiers into the one that gives their mean, and the batch norm into that one."""
        if self.distilled is not None:
            with torch.no_grad():
                self.classifier.weight.add_(self.distilled.weight).div_(2)
                self.classifier.bias.add_(self.distilled.bias).div_(2)
            self.distilled = None
        if isinstance(self.norm, nn.BatchNorm2d):
            self.norm = fold_into_next(self.norm, self.classifier)
