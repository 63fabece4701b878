"""1x1 convolutions to and from the heads of an attention, for the `module.py` of families.

Heads and channels are dimensions of their own in the weights, so that fewer heads are slices of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ToHeads(nn.Module):
    """The 1x1 convolution (B, C, H, W) to the queries (B, heads * d, H, W) of all heads.

    Args:
        channels: C.
        dims: heads and d, or what is stacked before them: (3, heads, d) gives queries, keys and
            values, one after the other.
    """

    def __init__(self, channels: int, *dims: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*dims, channels, 1, 1))
        nn.init.xavier_uniform_(self._matrix().data)

    def _matrix(self) -> Tensor:
        # (..., d, C, 1, 1) to (... * d, C, 1, 1)
        return self.weight.flatten(0, -4)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return F.conv2d(x_bchw, self._matrix())

    def plain(self) -> nn.Conv2d:
        """Return the same as an ordinary convolution."""
        return plain(self._matrix())


class FromHeads(nn.Module):
    """The 1x1 convolution of all heads' values (B, heads * d, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, head_dim: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, heads, head_dim, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        nn.init.xavier_uniform_(self._matrix().data)

    def _matrix(self) -> Tensor:
        # (C, heads, d, 1, 1) to (C, heads * d, 1, 1)
        return self.weight.flatten(1, 2)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return F.conv2d(x_bchw, self._matrix(), self.bias)

    def plain(self) -> nn.Conv2d:
        """Return the same as an ordinary convolution."""
        return plain(self._matrix(), self.bias)


@torch.no_grad()
def plain(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """Return the 1x1 convolution with this weight (out, in, 1, 1), in eval mode.

    Args:
        weight: of the convolution.
        bias: (out,); None for a bias of zeros.
    """
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device=weight.device, dtype=weight.dtype)
    assert conv.bias is not None
    conv.weight.copy_(weight)
    nn.init.zeros_(conv.bias)
    if bias is not None:
        conv.bias.copy_(bias)
    return conv.eval()
