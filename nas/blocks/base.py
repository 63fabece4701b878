"""What every block module tells about itself: how it is sliced, and how published weights map onto it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from nas.specs import BlockSpec, Shape


@dataclass(frozen=True)
class Repeated:
    """A dimension that holds the channels of a group several times over, as the stacked queries, keys and values of
    one projection do: `times` runs of all channels, one after the other."""

    group: str
    times: int


Axis = str | Repeated | None
"""The channel group of one dimension of a tensor; None where it is never sliced."""
Axes = Mapping[str, tuple[Axis, ...]]
"""Tensor name to the axis of each of its dimensions."""
Published = Mapping[str, Mapping[str, str]]
"""Checkpoint layout (a name in `nas.weights.LAYOUTS`) to our tensor names, or prefixes of them, and theirs."""


def within(prefix: str, axes: Axes, **groups: Axis) -> Axes:
    """The axes of a part called `prefix`, its channel groups named anew where `groups` says so."""
    renamed = lambda axis: groups.get(axis, axis) if isinstance(axis, str) else axis  # noqa: E731
    return {f"{prefix}.{name}": tuple(map(renamed, dims)) for name, dims in axes.items()}


class Block(nn.Module):
    """A module of the vocabulary, built from its spec and input shape by `nas.blocks.build_block`.

    Attributes:
        axes: which dimensions of which tensors are channels: `in` of the input, `out` of the output (the residual
            stream, where input and output are the same), `hidden` inside the block. Slicing needs no more than this.
        published: for each checkpoint layout, the prefix of our tensor names to the prefix of theirs.
        float_parts: classes of parts inside whose sums of squares or of products, and the divisions by them, stay
            float32 where all else has 8 bits: 256 steps leave little of them, and a denominator becomes 0. Convolutions
            in such parts are quantised. Asked by the export target litert-int8.
        built_from: the spec and the input shape.
        takes_grid: of a block on tokens, whether its `forward` takes height and width of the tokens' grid as a second
            argument. One that does not must have the aspect ratio that it was built for, or not mind it.
    """

    axes: ClassVar[Axes] = {}
    published: ClassVar[Published] = {}
    float_parts: ClassVar[tuple[type[nn.Module], ...]] = ()
    built_from: tuple[BlockSpec, Shape] | None = None
    takes_grid: ClassVar[bool] = False

    def deploy(self) -> None:
        """Replaces what only training needs by constants, in place. The output in eval mode stays the same."""

    def fit_float16(self) -> None:
        """Rescales weights, in place, where a sum inside would exceed float16's 65504. The output stays the same.

        Asked by targets that compute in float16 alone.
        """
