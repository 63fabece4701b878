"""What a network needs to compute in float16 alone, which no file of another format does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from nas.blocks import Block
from nas.blocks.lite_mla import LiteMLA

SMALLEST = float(np.finfo(np.float16).smallest_normal)
"""6.1e-5. What is smaller has fewer digits, and is 0 on hardware that flushes it, as Neural Engines are said to do."""

_GUARDS = (torch.ops.aten.add.Tensor, torch.ops.aten.add.Scalar, torch.ops.aten.clamp_min.default,
           torch.ops.aten.clamp.default, torch.ops.aten.maximum.default)  # fmt: skip


def rescale(network: nn.Module) -> nn.Module:
    """Makes the sums of EfficientViT's attention fit float16, in place; what the network gives stays the same.

    Numerator and denominator of linear attention are sums over all N tokens of products of queries and keys: about
    65504, float16's largest number, at 14x14 tokens already. Queries and keys stand in both, so a factor on them
    cancels; they come from a convolution without bias through ReLU and convolutions without bias, so the factor can go
    into that convolution's weights. Queries and keys get 1 / sqrt(N) each, as a power of two, which loses no digit:
    sums become means.
    """
    for block in network.modules():
        if not isinstance(block, Block) or block.built_from is None:
            continue
        for part in block.modules():
            if isinstance(part, LiteMLA):
                _, shape = block.built_from
                channels = part.qkv.out_channels // 3
                with torch.no_grad():
                    part.qkv.weight[: 2 * channels].mul_(2.0 ** -round(math.log2(shape.tokens) / 2))
    return network


def raise_guards(program: ExportedProgram) -> ExportedProgram:
    """Makes what keeps a division from dividing by 0 a number that float16 holds, in place.

    An eps of 1e-15 that is added to a denominator, or a floor of 1e-24 under a sum of squares, is 0 in float16: where
    nothing else is there, 0 / 0 results. Constants between 0 and SMALLEST become SMALLEST.
    """
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in _GUARDS:
            node.args = tuple(_raised(value) for value in node.args)
    return program


def _raised(value: Any) -> Any:
    return SMALLEST if isinstance(value, float) and 0 < value < SMALLEST else value
