"""What every block module tells about itself: how it is sliced, and how published weights map onto it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

Axes = Mapping[str, tuple[str | None, ...]]
"""Tensor name to the channel group of each of its dimensions; None where a dimension is never sliced."""
Published = Mapping[str, Mapping[str, str]]
"""Checkpoint layout (a name in `nas.weights.LAYOUTS`) to our tensor names, or prefixes of them, and theirs."""


class Block(nn.Module):
    """A module of the vocabulary, built from its spec and input shape by `nas.blocks.build_block`.

    Attributes:
        axes: which dimensions of which tensors are channels: `in` of the input, `out` of the output (the residual
            stream, where input and output are the same), `hidden` inside the block. Slicing needs no more than this.
        published: for each checkpoint layout, the prefix of our tensor names to the prefix of theirs.
    """

    axes: ClassVar[Axes] = {}
    published: ClassVar[Published] = {}

    def deploy(self) -> None:
        """Replaces what only training needs by constants, in place. The output in eval mode stays the same."""
