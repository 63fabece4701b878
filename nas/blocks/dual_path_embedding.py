"""EfficientFormerV2's way into its last stage."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks.attention_bias import BiasedBlock
from nas.blocks.base import Axes, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, conv_axes, split_heads
from nas.specs import DualPathEmbedding, Shape


class DualPathEmbeddingBlock(BiasedBlock):
    """(B, C, H, W) to (B, width, H/2, W/2) by convolution and attention; see `nas.specs.DualPathEmbedding`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("convolution", "in", "out"),
        **conv_axes("query_local", None, "in"),
        **ConvNorm.axes("query", "in", None),
        **ConvNorm.axes("key", "in", None),
        **ConvNorm.axes("value", "in", None),
        **ConvNorm.axes("projection", None, "out"),
    }
    published: ClassVar[Published] = {
        "efficientformerv2/official": {
            "convolution.conv": "conv", "convolution.norm": "bn", "query_local": "attn.q.local.0",
            "query.conv": "attn.q.proj.0", "query.norm": "attn.q.proj.1",
            "key.conv": "attn.k.0", "key.norm": "attn.k.1", "value.conv": "attn.v.0", "value.norm": "attn.v.1",
            "local.conv": "attn.v_local.0", "local.norm": "attn.v_local.1", "bias": "attn.attention_biases",
            "projection.conv": "attn.proj.1", "projection.norm": "attn.proj.2",
        },
        "efficientformerv2/timm": {
            "convolution.conv": "conv.conv", "convolution.norm": "conv.bn", "query_local": "attn.q.local",
            "query.conv": "attn.q.proj.conv", "query.norm": "attn.q.proj.bn",
            "key.conv": "attn.k.conv", "key.norm": "attn.k.bn", "value.conv": "attn.v.conv", "value.norm": "attn.v.bn",
            "local.conv": "attn.v_local.conv", "local.norm": "attn.v_local.bn", "bias": "attn.attention_biases",
            "projection.conv": "attn.proj.conv", "projection.norm": "attn.proj.bn",
        },
    }  # fmt: skip

    def __init__(self, spec: DualPathEmbedding, shape: Shape) -> None:
        super().__init__(spec.heads, (shape.height, shape.width), query_stride=2)
        channels, keys, values = shape.channels, spec.heads * spec.key_dim, spec.heads * spec.value_dim
        self.heads, self.factor = spec.heads, spec.key_dim**-0.5
        self.convolution = ConvNorm(channels, spec.width, kernel=3, stride=2)
        self.query_local = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
        self.query = ConvNorm(channels, keys)
        self.key = ConvNorm(channels, keys)
        self.value = ConvNorm(channels, values)
        self.local = ConvNorm(values, values, kernel=3, stride=2, groups=values)
        self.activation = ACTIVATIONS[spec.activation]()
        self.projection = ConvNorm(values, spec.width)

    def forward(self, x_bchw: Tensor) -> Tensor:
        query = self.query(self.query_local(x_bchw) + F.avg_pool2d(x_bchw, kernel_size=1, stride=2))
        value = self.value(x_bchw)
        q, k, v = (split_heads(x, self.heads) for x in (query, self.key(x_bchw), value))
        scores = q.transpose(2, 3) @ k * self.factor + self.bias_on((x_bchw.shape[2], x_bchw.shape[3]))
        local = self.local(value)
        mixed = (v @ scores.softmax(dim=3).transpose(2, 3)).reshape(local.shape) + local
        x_bchw = self.projection(self.activation(mixed)) + self.convolution(x_bchw)
        return x_bchw
