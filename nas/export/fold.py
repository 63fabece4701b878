"""Folding of batch norms into the convolutions before them, as every deployment does."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.blocks.layers import ConvNorm


def fold(module: nn.Module) -> nn.Module:
    """Replaces every ConvNorm below `module` by one convolution, in place; the output in eval mode stays the same.

    Raises:
        ValueError: when `module` is in training mode, where a batch norm does not fold.
    """
    if module.training:
        raise ValueError("batch norms fold in eval mode only; call module.eval() first")
    for name, child in list(module.named_children()):
        if isinstance(child, ConvNorm):
            setattr(module, name, fuse_conv_bn_eval(child.conv, child.norm))
        else:
            fold(child)
    return module
