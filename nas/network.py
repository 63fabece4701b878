"""Network: an architecture as a torch module, one child an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from nas.blocks import Block, build_block
from nas.blocks.layers import to_map
from nas.space import Architecture, Operation

Call = Callable[[Operation, Any], Any]
"""Runs one operation on its input."""


def run(operations: Sequence[Operation], x_bchw: Tensor, call: Call) -> Any:
    """The chain of operations on images; a head that takes a pyramid gets the outputs of all stages."""
    head = operations[-1]
    if head.spec.layout == "pyramid":
        return call(head, pyramid(operations[:-1], x_bchw, call)[-len(head.input.levels) :])
    x: Any = x_bchw
    for operation in operations:
        x = call(operation, x)
    return x


def pyramid(operations: Sequence[Operation], x_bchw: Tensor, call: Call) -> tuple[Tensor, ...]:
    """The output of each stage as a map (B, C, H, W), from the operations of the stages and the stem."""
    maps: dict[str, Tensor] = {}
    x, grid, has_stem = x_bchw, (0, 0), any(operation.name == "stage1_entry" for operation in operations)
    for operation in operations:
        x = call(operation, x)
        if x.dim() == 4:
            grid = (x.shape[2], x.shape[3])
        stage = operation.name.partition("_")[0]
        if not operation.spec.changes_layout and not (stage == "stem" and has_stem):
            maps["stage1" if stage == "stem" else stage] = x if x.dim() == 4 else to_map(x, grid)
    return tuple(maps.values())


class Network(nn.Module):
    """(B, 3, H, W) to logits (B, classes) in eval mode, or to what another head than a classifier gives.

    Every operation of `architecture` is the child module of its name: stem, stage2_entry, stage3_block5, head. In
    training mode a distillation head returns a pair of logits.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        operations = architecture.operations()
        self._has_tokens = any(operation.output.layout == "tokens" for operation in operations[:-1])
        for operation in operations:
            self.add_module(operation.name, build_block(operation.spec, operation.input))

    def forward(self, x_bchw: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        self._check_aspect(x_bchw)
        output: Tensor | tuple[Tensor, Tensor] = run(self.architecture.operations(), x_bchw, self._call)
        return output

    def forward_features(self, x_bchw: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the four stages as maps (B, C, H, W), at strides 4, 8, 16 and 32."""
        self._check_aspect(x_bchw)
        return pyramid(self.architecture.operations()[:-1], x_bchw, self._call)

    def _call(self, operation: Operation, x: Any) -> Any:
        return self.get_submodule(operation.name)(x)

    def _check_aspect(self, x_bchw: Tensor) -> None:
        """Token blocks cannot see their grid: it follows from their number where the aspect ratio is the built one."""
        height, width = self.architecture.resolution
        if self._has_tokens and x_bchw.shape[2] * width != x_bchw.shape[3] * height:
            raise ValueError(
                f"an input of {x_bchw.shape[2]}x{x_bchw.shape[3]} for a network built for {height}x{width}: its tokens "
                "need the same aspect ratio; build it for this input with nas.build(arch.at((height, width)))"
            )

    def deploy(self) -> Network:
        """Replaces what only training needs by constants, in place: merged heads, constant attention biases."""
        for block in self.children():
            if isinstance(block, Block):
                block.deploy()
        return self


def build(architecture: Architecture) -> Network:
    """The network of an architecture, freshly initialised, in training mode."""
    return Network(architecture)
