"""Layers that several blocks share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from nas.blocks.base import Axes, Axis

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, approximate="tanh"), "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
}  # fmt: skip

LAYER_SCALE_INIT = 1e-5


class ConvNorm(nn.Sequential):
    """A convolution with `same` padding and the batch norm that deployment folds into it."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        conv: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        self.conv = conv(channels, width, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(width)

    @staticmethod
    def axes(name: str, channels: Axis, width: Axis) -> Axes:
        """The axes of a ConvNorm called `name`; of a depthwise one `channels` is None."""
        return {**conv_axes(f"{name}.conv", channels, width), **batch_norm_axes(f"{name}.norm", width)}


def conv_axes(name: str, channels: Axis, width: Axis) -> Axes:
    """The axes of a convolution called `name`; of a depthwise one `channels` is None."""
    return {f"{name}.weight": (width, channels, None, None), f"{name}.bias": (width,)}


def batch_norm_axes(name: str, channels: Axis) -> Axes:
    """The axes of a batch norm called `name`."""
    return {f"{name}.{vector}": (channels,) for vector in ("weight", "bias", "running_mean", "running_var")}


def linear_axes(name: str, channels: Axis, width: Axis) -> Axes:
    """The axes of a linear layer called `name`."""
    return {f"{name}.weight": (width, channels), f"{name}.bias": (width,)}


def norm_axes(name: str, channels: Axis) -> Axes:
    """The axes of a layer norm called `name`."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def layer_scale(channels: int, initial: float = LAYER_SCALE_INIT) -> nn.Parameter:
    """A learned factor a channel (CaiT, arXiv:2103.17239)."""
    return nn.Parameter(torch.full((channels,), initial))


def fold_into_next(norm: nn.BatchNorm2d, layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Puts a batch norm, as it is in eval mode, into the linear layer or ungrouped 1x1 convolution behind it, in place.

    W (s x + t) + b = (W s) x + (W t + b) holds wherever no padding stands between the two. Returns what takes the
    norm's place.
    """
    assert norm.running_mean is not None and norm.running_var is not None and layer.bias is not None
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        weight = layer.weight.flatten(1)
        layer.bias.add_(weight @ shift)
        layer.weight.copy_((weight * scale).view_as(layer.weight))
    return nn.Identity().eval()


def init_linear(module: nn.Module) -> None:
    """Normal weights of std 0.02 and zero biases, as the authors initialise linear layers and MLPs (they cut the normal
    at 100 standard deviations, which changes nothing and takes twice as long)."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class NormalConv2d(nn.Conv2d):
    """A convolution that `init_linear` draws at once: after torch's own draw it doubles the time to build a network."""

    def reset_parameters(self) -> None:
        init_linear(self)


def grid_of(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid that holds this many tokens and has the aspect ratio of `grid`.

    Raises:
        ValueError: when there is none, because the input's aspect ratio is not the one the network was built for.
    """
    if tokens == grid[0] * grid[1]:
        return grid
    height = round((tokens * grid[0] / grid[1]) ** 0.5)
    if height < 1 or tokens % height or height * grid[1] != tokens // height * grid[0]:
        raise ValueError(
            f"{tokens} tokens do not form a grid of the shape {grid[0]}x{grid[1]} that this network was built for; "
            "build it for this input with nas.build(arch.at((height, width)))"
        )
    return height, tokens // height


def split_heads(x_bchw: Tensor, heads: int) -> Tensor:
    """(B, heads * D, H, W) to (B, heads, D, H*W)."""
    batch, channels, height, width = x_bchw.shape
    return x_bchw.reshape(batch, heads, channels // heads, height * width)


def to_tokens(x_bchw: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H*W, C)."""
    return x_bchw.flatten(2).transpose(1, 2)


def to_map(x_bnc: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H*W, C) to (B, C, H, W)."""
    batch, _, channels = x_bnc.shape
    return x_bnc.transpose(1, 2).reshape(batch, channels, *grid)
