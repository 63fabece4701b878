"""EfficientFormer's global block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nas.blocks.attention_bias import BiasedBlock
from nas.blocks.base import Axes, Published
from nas.blocks.layers import ACTIVATIONS, grid_of, init_linear, layer_scale, linear_axes, norm_axes
from nas.specs import MB3D, Shape

_PUBLISHED = {
    "mixer_norm": "norm1", "qkv": "token_mixer.qkv", "bias": "token_mixer.attention_biases",
    "mixer_projection": "token_mixer.proj", "mlp_norm": "norm2", "expand": "mlp.fc1", "project": "mlp.fc2",
}  # fmt: skip


class MB3DBlock(BiasedBlock):
    """Self-attention with a learned bias and MLP on (B, N, C); see `nas.specs.MB3D` for the equations.

    Tokens of another grid must have the aspect ratio of the one that the block was built for, unless `forward` is told
    the grid.
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
        "efficientformer/official": {**_PUBLISHED, "mixer_scale": "layer_scale_1", "mlp_scale": "layer_scale_2"},
        "efficientformer/timm": {**_PUBLISHED, "mixer_scale": "ls1.gamma", "mlp_scale": "ls2.gamma"},
    }

    def __init__(self, spec: MB3D, shape: Shape) -> None:
        super().__init__(spec.heads, (shape.height, shape.width))
        channels = shape.channels
        self.heads, self.split = spec.heads, [spec.key_dim, spec.key_dim, spec.value_dim]
        self.mixer_norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, spec.heads * sum(self.split))
        self.mixer_projection = nn.Linear(spec.heads * spec.value_dim, channels)
        self.mixer_scale = layer_scale(channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, spec.expansion * channels)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = nn.Linear(spec.expansion * channels, channels)
        self.mlp_scale = layer_scale(channels)
        self.apply(init_linear)

    def forward(self, x_bnc: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        grid = grid or grid_of(x_bnc.shape[1], self.grid)
        x_bnc = x_bnc + self.mixer_scale * self._attention(self.mixer_norm(x_bnc), grid)
        hidden = self.activation(self.expand(self.mlp_norm(x_bnc)))
        x_bnc = x_bnc + self.mlp_scale * self.project(hidden)
        return x_bnc

    def _attention(self, x_bnc: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, tokens, _ = x_bnc.shape
        qkv = self.qkv(x_bnc).reshape(batch, tokens, self.heads, -1).transpose(1, 2)
        q, k, v = qkv.split(self.split, dim=3)
        scores = q @ k.transpose(2, 3) * self.split[0] ** -0.5 + self.bias_on(grid)
        mixed = scores.softmax(dim=3) @ v
        projected: Tensor = self.mixer_projection(mixed.transpose(1, 2).flatten(2))
        return projected
