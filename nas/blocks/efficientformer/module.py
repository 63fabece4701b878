"""EfficientFormer (Li et al., arXiv:2206.01191): MB4D with a pooling mixer, MB3D with attention,
and its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks import MB3D, MB4D, Operation, Shape, TokenHead
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    BiasedBlock,
    Block,
    CheckpointLayout,
    ConvNorm,
    Published,
    grid_of,
    init_linear,
    layer_scale,
    linear_axes,
    norm_axes,
)
from nas.blocks.prefixes import stage_prefixes
from nas.blocks.spec import hidden_width

_MLP = {
    "expand.conv": "mlp.fc1",
    "expand.norm": "mlp.norm1",
    "project.conv": "mlp.fc2",
    "project.norm": "mlp.norm2",
}


class MB4DBlock(Block):
    """Pooling mixer and convolutional MLP on (B, C, H, W); see `nas.blocks.MB4D` for the equation."""

    axes: ClassVar[Axes] = {
        "mixer_scale": ("out",),
        **ConvNorm.axes("expand", "out", "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
        "mlp_scale": ("out",),
    }
    published: ClassVar[Published] = {
        "efficientformer/official": {
            **_MLP,
            "mixer_scale": "layer_scale_1",
            "mlp_scale": "layer_scale_2",
        },
        "efficientformer/timm": {**_MLP, "mixer_scale": "ls1.gamma", "mlp_scale": "ls2.gamma"},
    }

    def __init__(self, spec: MB4D, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        hidden = hidden_width(spec.expansion, channels)
        self.pool = nn.AvgPool2d(
            spec.pool, stride=1, padding=spec.pool // 2, count_include_pad=False
        )
        self.mixer_scale = layer_scale(channels)
        self.expand = ConvNorm(channels, hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, channels)
        self.mlp_scale = layer_scale(channels)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # Eq. 3, the token mixer. The pool minus its input is PoolFormer's mixer (arXiv:2111.11418):
        # the residual then adds only what the neighbours differ by.
        mixed = self.mixer_scale[:, None, None] * (self.pool(x_bchw) - x_bchw)
        x_bchw = self.residual(x_bchw, mixed)
        # The MLP as 1x1 convolutions, whose batch norms deployment folds.
        hidden = self.activation(self.expand(x_bchw))
        x_bchw = self.residual(x_bchw, self.mlp_scale[:, None, None] * self.project(hidden))
        return x_bchw


_PUBLISHED = {
    "mixer_norm": "norm1",
    "qkv": "token_mixer.qkv",
    "bias": "token_mixer.attention_biases",
    "mixer_projection": "token_mixer.proj",
    "mlp_norm": "norm2",
    "expand": "mlp.fc1",
    "project": "mlp.fc2",
}


class MB3DBlock(BiasedBlock):
    """Self-attention with a learned bias and MLP on (B, N, C).

    `nas.blocks.MB3D` has the equations. Tokens of another grid must have the aspect ratio of the
    one that the block was built for, unless `forward` is given the grid.
    """

    takes_grid = True

    axes: ClassVar[Axes] = {
        **norm_axes("mixer_norm", "out"),
        **linear_axes("qkv", "out", None),
        **linear_axes("mixer_projection", None, "out"),
        "mixer_scale": ("out",),
        **norm_axes("mlp_norm", "out"),
        **linear_axes("expand", "out", "hidden"),
        **linear_axes("project", "hidden", "out"),
        "mlp_scale": ("out",),
    }
    published: ClassVar[Published] = {
        "efficientformer/official": {
            **_PUBLISHED,
            "mixer_scale": "layer_scale_1",
            "mlp_scale": "layer_scale_2",
        },
        "efficientformer/timm": {
            **_PUBLISHED,
            "mixer_scale": "ls1.gamma",
            "mlp_scale": "ls2.gamma",
        },
    }

    def __init__(self, spec: MB3D, shape: Shape) -> None:
        super().__init__(spec.heads, (shape.height, shape.width))
        channels = shape.channels
        self.heads = spec.heads
        self.split = [spec.key_dim, spec.key_dim, spec.value_dim]
        self.mixer_norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, spec.heads * sum(self.split))
        self.mixer_projection = nn.Linear(spec.heads * spec.value_dim, channels)
        self.mixer_scale = layer_scale(channels)
        self.mlp_norm = nn.LayerNorm(channels)
        hidden = hidden_width(spec.expansion, channels)
        self.expand = nn.Linear(channels, hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = nn.Linear(hidden, channels)
        self.mlp_scale = layer_scale(channels)
        self.apply(init_linear)

    def forward(self, x_bnc: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        grid = grid or grid_of(x_bnc.shape[1], self.grid)
        # X + s1 MHSA(LN(X)), then the MLP on its layer norm: linear layers, as this is after the
        # one change of layout to tokens.
        mixed = self.mixer_scale * self._attention(self.mixer_norm(x_bnc), grid)
        x_bnc = self.residual(x_bnc, mixed)
        hidden = self.activation(self.expand(self.mlp_norm(x_bnc)))
        x_bnc = self.residual(x_bnc, self.mlp_scale * self.project(hidden))
        return x_bnc

    def _attention(self, x_bnc: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, tokens, _ = x_bnc.shape
        # (B, N, heads * (2 D + V)) to (B, heads, N, 2 D + V): each head has its own queries, keys
        # and values side by side, as published weights have them.
        qkv = self.qkv(x_bnc).reshape(batch, tokens, self.heads, -1).transpose(1, 2)
        q, k, v = qkv.split(self.split, dim=3)  # (B, heads, N, D), twice, and (B, heads, N, V)
        # softmax(Q K^T / sqrt(D) + b): (B, heads, N, N)
        scores = q @ k.transpose(2, 3) * self.split[0] ** -0.5 + self.bias_on(grid)
        mixed = scores.softmax(dim=3) @ v  # (B, heads, N, V)
        # (B, heads, N, V) to (B, N, heads * V)
        projected: Tensor = self.mixer_projection(mixed.transpose(1, 2).flatten(2))
        return projected


class TokenHeadBlock(Block):
    """(B, N, C) to (B, classes); with distillation a pair of them in training mode. See
    `nas.blocks.TokenHead`."""

    axes: ClassVar[Axes] = {
        **norm_axes("norm", "in"),
        **linear_axes("classifier", "in", None),
        **linear_axes("distilled", "in", None),
    }
    published: ClassVar[Published] = {
        "efficientformer/official": {
            "norm": "norm",
            "classifier": "head",
            "distilled": "dist_head",
        },
        "efficientformer/timm": {"norm": "norm", "classifier": "head", "distilled": "head_dist"},
    }

    def __init__(self, spec: TokenHead, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.channels)
        self.classifier = nn.Linear(shape.channels, spec.classes)
        self.distilled = nn.Linear(shape.channels, spec.classes) if spec.distillation else None
        self.apply(init_linear)

    def forward(self, x_bnc: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.norm(x_bnc).mean(dim=1)  # (B, C)
        logits: Tensor = self.classifier(features)
        if self.distilled is None:
            return logits
        distilled = self.distilled(features)
        return (logits, distilled) if self.training else (logits + distilled) / 2

    def deploy(self) -> None:
        """Merge the two classifiers into the one that gives their mean."""
        if self.distilled is not None:
            # The mean of two linear layers on the same features is one linear layer.
            with torch.no_grad():
                self.classifier.weight.add_(self.distilled.weight).div_(2)
                self.classifier.bias.add_(self.distilled.bias).div_(2)
            self.distilled = None


def official_prefixes(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of the authors' code, by operation.

    Its `network` alternates stages (0, 2, 4, 6) and embeddings (1, 3, 5); the stem and the head
    stand at the top.
    """
    return stage_prefixes(
        operations, "network.{before}", "network.{stage}.{index}", stem="patch_embed"
    )


def timm_prefixes(operations: Sequence[Operation]) -> dict[str, str]:
    return stage_prefixes(
        operations, "stages.{number}.downsample", "stages.{number}.blocks.{index}"
    )


LAYOUTS = (
    CheckpointLayout(
        "efficientformer/official", official_prefixes, ignored=("attention_bias_idxs",)
    ),
    CheckpointLayout("efficientformer/timm", timm_prefixes, ignored=("attention_bias_idxs",)),
)
