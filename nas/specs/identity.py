"""A position of a stage that holds nothing: the block was dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import BlockSpec
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class Identity(BlockSpec):
    """Marks a dropped position in an architecture. It is never built, measured or counted."""

    kind: ClassVar[str] = "identity"

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape)
