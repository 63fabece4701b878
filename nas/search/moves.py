"""Moves: small pure changes of an architecture, the actions of latency-driven slimming (arXiv:2206.01191, Sec. 4.2).

A further action is one more frozen dataclass with `action`, `apply` and `__str__`, and its legal uses in `moves`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nas.space import Architecture, Space
from nas.specs import BlockSpec, Identity

Action = Literal["DR", "WR", "MR"]


@dataclass(frozen=True)
class Drop:
    """DR, depth reduction: the block at this position (both count from 0) becomes identity."""

    action: ClassVar[Action] = "DR"

    stage: int
    position: int

    def apply(self, arch: Architecture) -> Architecture:
        return arch.with_stage(self.stage, arch.stages[self.stage].with_block(self.position, Identity()))

    def __str__(self) -> str:
        return f"drop stage {self.stage + 1} block {self.position + 1}"


@dataclass(frozen=True)
class Narrow:
    """WR, width reduction: the residual stream of a whole stage (counted from 0) gets `width` channels."""

    action: ClassVar[Action] = "WR"

    stage: int
    width: int

    def apply(self, arch: Architecture) -> Architecture:
        return arch.with_stage(self.stage, arch.stages[self.stage].with_width(self.width))

    def __str__(self) -> str:
        return f"narrow stage {self.stage + 1} to {self.width}"


@dataclass(frozen=True)
class Localise:
    """MR, attention reduction: the global block at this position (both count from 0) becomes its local twin, `block`.

    The paper removes the first MB3D. It becomes an MB4D here, as in the networks that the authors published.
    """

    action: ClassVar[Action] = "MR"

    stage: int
    position: int
    block: BlockSpec

    def apply(self, arch: Architecture) -> Architecture:
        return arch.with_stage(self.stage, arch.stages[self.stage].with_block(self.position, self.block))

    def __str__(self) -> str:
        return f"make stage {self.stage + 1} block {self.position + 1} {self.block.kind}"


Move = Drop | Narrow | Localise


def moves(space: Space, arch: Architecture) -> list[Move]:
    """Every single move from `arch` that leads to another member of `space`, stage by stage.

    A width goes to the next smaller one, and only the first global block of a suffix (of the network or of a stage,
    as the space says) may become local. `arch` is a member; its positions are those of `space.largest()` where it was
    made from that by moves.
    """
    return [*_drops(space, arch), *_narrows(space, arch), *_localises(space, arch)]


def _drops(space: Space, arch: Architecture) -> Iterator[Drop]:
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        if stage.depth > choice.depths[0]:
            for position, block in enumerate(stage.blocks):
                if not isinstance(block, Identity):
                    yield Drop(index, position)


def _narrows(space: Space, arch: Architecture) -> Iterator[Narrow]:
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        smaller = [width for width in choice.widths if width < stage.width]
        if smaller:
            yield Narrow(index, smaller[-1])


def _localises(space: Space, arch: Architecture) -> Iterator[Localise]:
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        first = next((p for p, block in enumerate(stage.blocks) if choice.kind(block) == "global"), None)
        if first is not None:
            yield Localise(index, first, choice.local)
            if space.placement == "network_suffix":
                return
