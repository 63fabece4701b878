"""Parallel convolutions that inference folds into one, for the `module.py` of families.

Structural re-parameterisation (RepVGG, arXiv:2101.03697; MobileOne, arXiv:2206.04040). Each part is
a `Foldable`, which `nas.blocks.module.fold` replaces. Folding is done in double precision, since the
weights of branches may cancel, and is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks.module import (
    Axes,
    Axis,
    ConvNorm,
    Foldable,
    Window,
    batch_norm_axes,
)


@dataclass(frozen=True)
class Kernel:
    """The weight (out, in / groups, k, k) and the bias (out,) of a convolution, both double."""

    weight: Tensor
    bias: Tensor

    def __add__(self, other: Kernel) -> Kernel:
        """Return the kernel of the sum of two convolutions; a smaller window is centred."""
        side = max(self.weight.shape[-1], other.weight.shape[-1])
        return Kernel(
            _centred(self.weight, side) + _centred(other.weight, side), self.bias + other.bias
        )

    def scaled(self, factor: Tensor) -> Kernel:
        """Return the kernel with each output channel multiplied by a factor (out,)."""
        factor = factor.double()
        return Kernel(self.weight * factor[:, None, None, None], self.bias * factor)

    def normed(self, norm: nn.BatchNorm2d) -> Kernel:
        """Return the kernel with the batch norm behind it, as in eval mode."""
        factor, shift = affine(norm)
        scaled = self.scaled(factor)
        return Kernel(scaled.weight, scaled.bias + shift)

    def conv(self, like: nn.Conv2d) -> nn.Conv2d:
        """Return the convolution with this kernel and `same` padding, in eval mode.

        Args:
            like: the convolution whose channels, stride, groups and type of weights it has.
        """
        side = self.weight.shape[-1]
        conv = nn.Conv2d(
            like.in_channels,
            like.out_channels,
            side,
            stride=like.stride,  # type: ignore[arg-type]
            padding=side // 2,
            groups=like.groups,
            device=like.weight.device,
            dtype=like.weight.dtype,
        )
        assert conv.bias is not None
        conv.weight.copy_(self.weight)
        conv.bias.copy_(self.bias)
        return conv.eval()


def kernel_of(conv: nn.Conv2d) -> Kernel:
    """Return the kernel of a convolution."""
    weight = conv.weight.double()
    bias = conv.bias.double() if conv.bias is not None else weight.new_zeros(len(weight))
    return Kernel(weight, bias)


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the factor and the shift (C,) of each channel that a batch norm is in eval mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    # y = (x - mean) * weight / sqrt(var + eps) + bias
    factor = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return factor, norm.bias.double() - norm.running_mean.double() * factor


def identity_kernel(conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> Kernel:
    """Return the 1x1 kernel that copies input channels, in the groups of a convolution.

    Input c is copied to output c where there is one; outputs without an input are zero.

    Args:
        conv: the convolution, one with as many inputs as outputs where it has groups.
        norm: a batch norm of the inputs before they are copied.
    """
    inputs = conv.in_channels // conv.groups
    kept = min(conv.in_channels, conv.out_channels)
    weight = conv.weight.new_zeros(conv.out_channels, inputs, 1, 1, dtype=torch.float64)
    bias = weight.new_zeros(conv.out_channels)
    copied = torch.arange(kept, device=weight.device)
    # Input c is number c modulo the size of a group within its group.
    weight[copied, copied % inputs, 0, 0] = 1.0
    if norm is not None:
        factor, shift = affine(norm)
        weight[copied, copied % inputs, 0, 0] = factor[:kept]
        bias[:kept] = shift[:kept]
    return Kernel(weight, bias)


def _centred(weight: Tensor, side: int) -> Tensor:
    """Return the weight with zeros around its window, which then has this side."""
    return F.pad(weight, [(side - weight.shape[-1]) // 2] * 4)


class RepConv(Foldable):
    """The sum of up to three branches, each with batch norm, on (B, C, H, W).

    MobileOne (arXiv:2206.04040), Sec. 3.2: a convolution, one of a smaller window beside it, and the
    input itself. In inference they are one convolution with a bias.

    Args:
        channels, width, kernel, stride, groups: of the convolution that remains.
        small: window of the second convolution; 0 without one.
        identity: whether the input is a branch: batch norm alone, for a stride of 1. Where there are
            fewer outputs than inputs it adds the first ones, where there are more it adds to them.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        small: int = 0,
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.large = ConvNorm(channels, width, kernel, stride, groups, bias=False)
        self.small = ConvNorm(channels, width, small, stride, groups, bias=False) if small else None
        self.identity = nn.BatchNorm2d(channels) if identity else None

    @staticmethod
    def axes(name: str, channels: Axis, width: Axis, window: Window | None = None) -> Axes:
        """Return the axes of a part called `name`; of a depthwise one `channels` is None.

        `window` is CENTRE where a smaller kernel is a slice of a larger one.
        """
        return {
            **ConvNorm.axes(f"{name}.large", channels, width, window),
            **ConvNorm.axes(f"{name}.small", channels, width),
            # What comes in; without groups of its own it is what goes out.
            **batch_norm_axes(f"{name}.identity", channels if channels is not None else width),
        }

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw: Tensor = self.large(x_bchw)
        beside = self.small(x_bchw) if self.small is not None else None
        if self.identity is not None:
            shortcut = self.identity(x_bchw)
            surplus = y_bchw.shape[1] - shortcut.shape[1]
            # Zeros for outputs without an input; a negative number cuts channels off.
            if surplus:
                shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, surplus))
            beside = shortcut if beside is None else beside + shortcut
        return y_bchw if beside is None else beside + y_bchw

    def kernel(self) -> Kernel:
        """Return the kernel of the sum of the branches, as in eval mode."""
        total = kernel_of(self.large.conv).normed(self.large.norm)
        if self.small is not None:
            total = total + kernel_of(self.small.conv).normed(self.small.norm)
        if self.identity is not None:
            total = total + identity_kernel(self.large.conv, self.identity)
        return total

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        return self.kernel().conv(self.large.conv)


class ResidualConv(nn.Conv2d, Foldable):
    """x + Conv(x) for a depthwise convolution with a bias; in inference one such convolution."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return super().forward(x_bchw) + x_bchw

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        return (kernel_of(self) + identity_kernel(self)).conv(self)
