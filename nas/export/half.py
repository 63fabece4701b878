"""What a network needs to compute in float16 alone, which no file of another format does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from nas.blocks import Block

SMALLEST = float(np.finfo(np.float16).smallest_normal)
"""6.1e-5. What is smaller has fewer digits, and is 0 on hardware that flushes it, as Neural Engines are said to do."""

_GUARDS = (torch.ops.aten.add.Tensor, torch.ops.aten.add.Scalar, torch.ops.aten.clamp_min.default,
           torch.ops.aten.clamp.default, torch.ops.aten.maximum.default)  # fmt: skip


def rescale(network: nn.Module) -> nn.Module:
    """Makes the sums inside blocks fit float16, in place; what the network gives stays the same."""
    for block in network.modules():
        if isinstance(block, Block):
            block.fit_float16()
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
