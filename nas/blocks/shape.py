"""Shapes of activations: maps, tokens, vectors and pyramids, for `spec` and all that counts by them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Layout = Literal["map", "tokens", "vector", "pyramid"]

_TEXT = re.compile(r"(?:(tokens|vector):)?(\d+)x(\d+)x(\d+)")


@dataclass(frozen=True, slots=True)
class Shape:
    """An activation of `channels` at `height` x `width` positions.

    `layout` is the order in memory: a map (B, C, H, W), tokens (B, H*W, C), or a vector (B, C).
    Tokens keep their grid, because attention biases depend on it. A pyramid is several maps at
    once, those of the stages: its own channels and sides are those of the last and coarsest one,
    and `finer` has the others.
    """

    channels: int
    height: int
    width: int
    layout: Layout = "map"
    finer: tuple[Shape, ...] = ()

    @property
    def tokens(self) -> int:
        return self.height * self.width

    @property
    def elements(self) -> int:
        own = self.channels * self.height * self.width
        return own + sum(level.elements for level in self.finer) if self.finer else own

    @property
    def levels(self) -> tuple[Shape, ...]:
        """Return the maps of a pyramid, the finest first."""
        return (*self.finer, Shape(self.channels, self.height, self.width))

    def resized(self, stride: int) -> Shape:
        """Return the shape after a convolution of this stride with `same` padding."""
        # With padding k // 2 and an odd kernel k, floor((H + 2 (k // 2) - k) / s) + 1 = ceil(H /
        # s).
        height = -(-self.height // stride)
        width = -(-self.width // stride)
        return Shape(self.channels, height, width, self.layout, self.finer)

    def tensor(self, batch: int = 1) -> tuple[int, ...]:
        """Return the dimensions of a tensor of this shape; a pyramid is one tensor per level."""
        if self.layout == "map":
            return (batch, self.channels, self.height, self.width)
        if self.layout == "tokens":
            return (batch, self.tokens, self.channels)
        return (batch, self.channels)

    def __str__(self) -> str:
        if self.layout == "pyramid":
            return "pyramid:" + "+".join(map(str, self.levels))
        prefix = "" if self.layout == "map" else f"{self.layout}:"
        return f"{prefix}{self.channels}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return the inverse of `str()`. Raises ValueError for anything else."""
        if text.startswith("pyramid:"):
            maps = [cls.parse(level) for level in text.removeprefix("pyramid:").split("+")]
            if any(level.layout != "map" for level in maps):
                raise ValueError(
                    f"'{text}' is not a shape: the levels of a pyramid are maps, as in"
                    " pyramid:48x8x8+96x4x4"
                )
            return pyramid(maps)
        match = _TEXT.fullmatch(text)
        if not match:
            raise ValueError(
                f"'{text}' is not a shape (expected CHANNELSxHEIGHTxWIDTH, as in 48x56x56 or"
                " tokens:448x7x7)"
            )
        layout, *sizes = match.groups()
        channels, height, width = (int(size) for size in sizes)
        return cls(channels, height, width, layout or "map")  # type: ignore[arg-type]


def pyramid(maps: Sequence[Shape]) -> Shape:
    """Return maps, the finest first, as one shape."""
    *finer, last = maps
    return replace(last, layout="pyramid", finer=tuple(finer))
