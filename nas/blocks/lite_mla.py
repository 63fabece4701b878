"""EfficientViT's multi-scale ReLU linear attention."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks.base import Axes, Repeated
from nas.blocks.layers import ConvNorm, NormalConv2d, conv_axes

EPS = 1e-15
"""What a token keeps that attends to nothing, so that it becomes zero."""

_STACKED = Repeated("keys", 3)


class LiteMLA(nn.Module):
    """Queries, keys and values at two scales, attended to within heads and projected: (B, C, H, W) to the same.

    The 3 C channels hold all queries, then all keys, then all values, heads one after the other within each; so the
    weights for one head dimension are those for another too, but for `grouped`, which mixes the channels of a head.
    The second scale is the first after a depthwise convolution and `grouped`.
    """

    axes: ClassVar[Axes] = {
        **conv_axes("qkv", "out", _STACKED),
        **conv_axes("depthwise", None, _STACKED),
        **conv_axes("grouped", "head_dim", _STACKED),
        **ConvNorm.axes("projection", Repeated("keys", 2), "out"),
    }

    def __init__(self, channels: int, head_dim: int, kernel: int) -> None:
        super().__init__()
        stacked = 3 * channels
        self.head_dim = head_dim
        self.qkv = NormalConv2d(channels, stacked, 1, bias=False)
        self.depthwise = NormalConv2d(stacked, stacked, kernel, padding=kernel // 2, groups=stacked, bias=False)
        self.grouped = NormalConv2d(stacked, stacked, 1, groups=stacked // head_dim, bias=False)
        self.projection = ConvNorm(2 * channels, channels, bias=False, conv=NormalConv2d)

    @torch.no_grad()
    def fit_float16(self, tokens: int) -> None:
        """Makes the sums over so many tokens fit float16, in place; the output stays the same.

        Numerator and denominator of linear attention are sums over all N tokens of products of queries and keys: about
        65504, float16's largest number, at 14x14 tokens already. Queries and keys stand in both, so a factor on them
        cancels; they come from a convolution without bias through ReLU and convolutions without bias, so the factor can
        go into that convolution's weights. Queries and keys get 1 / sqrt(N) each, as a power of two, which loses no
        digit: sums become means.
        """
        channels = self.qkv.out_channels // 3
        self.qkv.weight[: 2 * channels].mul_(2.0 ** -round(math.log2(tokens) / 2))

    def forward(self, x_bchw: Tensor) -> Tensor:
        batch, _, height, width = x_bchw.shape
        qkv_bchw = self.qkv(x_bchw)
        scales = (qkv_bchw, self.grouped(self.depthwise(qkv_bchw)))
        q, k, v = (
            torch.cat(parts, dim=1).reshape(batch, -1, self.head_dim, height * width)
            for parts in zip(*(scale.chunk(3, dim=1) for scale in scales), strict=True)
        )
        mixed = _in_fp32(q, k, v).reshape(batch, -1, height, width)
        y_bchw: Tensor = self.projection(mixed)
        return y_bchw


def _in_fp32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` in fp32 under half precision and autocast, because sums over all tokens overflow fp16."""
    dtype, device = torch.promote_types(q.dtype, torch.float32), q.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return attend(q.to(dtype), k.to(dtype), v.to(dtype)).to(q.dtype)
    return attend(q.to(dtype), k.to(dtype), v.to(dtype)).to(q.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ReLU attention of (B, heads, d, N) each, in the form that is published for this number of tokens.

    EfficientViT (arXiv:2205.14756), Eq. 2. Both forms are equal but for rounding; beyond d tokens the linear one takes
    fewer products.
    """
    return linear(q.relu(), k.relu(), v) if q.shape[3] > q.shape[2] else quadratic(q.relu(), k.relu(), v)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(V K^T) Q over (1 K^T) Q, the ones as one more row of V; q and k are not negative. Products grow with N."""
    sums = F.pad(v, (0, 0, 0, 1), value=1.0) @ k.transpose(2, 3)
    mixed = sums @ q
    return mixed[:, :, :-1] / (mixed[:, :, -1:] + EPS)


def quadratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """V (K^T Q), each column divided by its sum; q and k are not negative. Products grow with N^2."""
    scores = k.transpose(2, 3) @ q
    return v @ (scores / (scores.sum(dim=2, keepdim=True) + EPS))
