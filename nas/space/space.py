"""Space: the set of architectures that a search may choose from."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Literal

from nas.errors import InputError
from nas.space.architecture import Architecture, Stage
from nas.specs import BlockSpec, Identity

Placement = Literal["stage_suffix", "network_suffix"]
"""Where global blocks may stand: the last positions of each stage, or the last positions of the whole network."""


@dataclass(frozen=True)
class StageSpace:
    """What one stage may be.

    Attributes:
        entry: the stem or embedding that enters the stage, at the largest width.
        widths: the widths to choose from, ascending.
        depths: least and most blocks.
        local: the local candidate of every position.
        global_: the global (attention) candidate, or None where only local blocks may stand.
    """

    entry: BlockSpec
    widths: tuple[int, ...]
    depths: tuple[int, int]
    local: BlockSpec
    global_: BlockSpec | None = None

    @property
    def candidates(self) -> tuple[BlockSpec, ...]:
        """What a position may hold beside identity."""
        return (self.local,) if self.global_ is None else (self.local, self.global_)

    def kind(self, block: BlockSpec) -> Literal["identity", "local", "global"]:
        """Which of the stage's choices `block` is. Raises ValueError when it is none."""
        if isinstance(block, Identity):
            return "identity"
        if block == self.local:
            return "local"
        if block == self.global_:
            return "global"
        raise ValueError(f"{block.kind}({block}) is no candidate here; there are {_names(self.candidates)}")


@dataclass(frozen=True)
class Space:
    """Stages with width choices, depth ranges and candidate blocks, and the published members by name.

    `load_space` makes one from a YAML file. Positions count from 0 in the API and from 1 in names.
    """

    name: str
    resolution: tuple[int, int]
    stages: tuple[StageSpace, ...]
    head: BlockSpec
    placement: Placement = "stage_suffix"
    paper: str = ""
    default_scores: str | None = None
    path: str = ""
    published: Mapping[str, Architecture] = field(default_factory=dict)

    def member(
        self, widths: Sequence[int], depths: Sequence[int], attention: Sequence[int], name: str = ""
    ) -> Architecture:
        """The architecture of these widths and depths whose last `attention[j]` blocks of stage j are global."""
        stages = []
        for space, width, depth, count in zip(self.stages, widths, depths, attention, strict=True):
            global_ = space.local if space.global_ is None else space.global_
            blocks = (space.local,) * (depth - count) + (global_,) * count
            stages.append(Stage(replace(space.entry, width=width), blocks))  # type: ignore[call-arg]
        return Architecture(self.name, self.resolution, tuple(stages), self.head, name)

    def largest(self) -> Architecture:
        """The widest and deepest member, global blocks wherever they may stand: what the supernet is built from."""
        return self.member(
            [stage.widths[-1] for stage in self.stages], [stage.depths[1] for stage in self.stages],
            self.attention_extremes()[-1], name=f"{self.name}-largest",
        )  # fmt: skip

    def smallest(self) -> Architecture:
        """The narrowest and shallowest member, with local blocks only."""
        return self.member(
            [stage.widths[0] for stage in self.stages], [stage.depths[0] for stage in self.stages],
            [0] * len(self.stages), name=f"{self.name}-smallest",
        )  # fmt: skip

    def sample(self, seed: int | random.Random) -> Architecture:
        """A random member: widths and depths uniform, dropped positions anywhere, a uniform number of global blocks."""
        rng = seed if isinstance(seed, random.Random) else random.Random(seed)
        widths = [rng.choice(stage.widths) for stage in self.stages]
        depths = [rng.randint(*stage.depths) for stage in self.stages]
        arch = self.member(widths, depths, rng.choice(list(self._attention(depths))))
        stages = []
        for space, stage in zip(self.stages, arch.stages, strict=True):
            positions = sorted(rng.sample(range(space.depths[1]), stage.depth))
            blocks: list[BlockSpec] = [Identity()] * space.depths[1]
            for position, block in zip(positions, stage.blocks, strict=True):
                blocks[position] = block
            stages.append(replace(stage, blocks=tuple(blocks)))
        name = f"{self.name}-sample{seed}" if isinstance(seed, int) else f"{self.name}-sample"
        return replace(arch, stages=tuple(stages), name=name)

    def enumerate(self) -> Iterator[Architecture]:
        """Every member once, without dropped positions."""
        for widths in product(*(stage.widths for stage in self.stages)):
            for depths in product(*(range(stage.depths[0], stage.depths[1] + 1) for stage in self.stages)):
                for attention in self._attention(depths):
                    yield self.member(widths, depths, attention)

    def count(self) -> int:
        """How many different networks the space holds."""
        depths = product(*(range(stage.depths[0], stage.depths[1] + 1) for stage in self.stages))
        shapes = sum(sum(1 for _ in self._attention(depth)) for depth in depths)
        return math.prod(len(stage.widths) for stage in self.stages) * shapes

    def place(self, arch: Architecture) -> Architecture:
        """`arch` with a block or identity at every position of the space.

        Where an architecture does not say which positions it left out (a published one, say), its local blocks take
        the first positions of their stage and its global ones the last.
        """
        stages = []
        for index, (space, stage) in enumerate(zip(self.stages, arch.stages, strict=True)):
            gap = space.depths[1] - len(stage.blocks)
            if gap < 0:
                raise InputError(f"stage {index + 1}: {len(stage.blocks)} positions, the space has {space.depths[1]}")
            first = next((i for i, b in enumerate(stage.blocks) if space.kind(b) == "global"), len(stage.blocks))
            padding = (Identity(),) * gap
            stages.append(replace(stage, blocks=stage.blocks[:first] + padding + stage.blocks[first:]))
        return replace(arch, stages=tuple(stages))

    def validate(self, arch: Architecture) -> None:
        """Raises ValueError with stage and reason when `arch` is no member (input size and classes are free)."""
        if len(arch.stages) != len(self.stages):
            raise ValueError(f"{len(arch.stages)} stages, the space has {len(self.stages)}")
        for index, (space, stage) in enumerate(zip(self.stages, arch.stages, strict=True), start=1):
            if stage.width not in space.widths:
                raise ValueError(f"stage {index}: width {stage.width} is none of {_choices(space.widths)}")
            if not space.depths[0] <= stage.depth <= space.depths[1] or len(stage.blocks) > space.depths[1]:
                raise ValueError(f"stage {index}: depth {stage.depth} is outside {space.depths[0]}..{space.depths[1]}")
            if stage.entry != replace(space.entry, width=stage.width):  # type: ignore[call-arg]
                raise ValueError(f"stage {index}: entered by {stage.entry.kind}({stage.entry}), not {space.entry.kind}")
        kinds = [self._kinds(index, stage) for index, stage in enumerate(arch.stages)]
        groups = [list(chain(*kinds))] if self.placement == "network_suffix" else kinds
        for group in groups:
            if "local" in group[group.index("global") :] if "global" in group else False:
                where = "network" if self.placement == "network_suffix" else "stage"
                raise ValueError(f"global blocks must be the last of their {where}; a local one follows them")

    def contains(self, arch: Architecture) -> bool:
        try:
            self.validate(arch)
        except ValueError:
            return False
        return True

    def at(self, resolution: int | tuple[int, int] | None = None, classes: int | None = None) -> Space:
        """The same space for another input size or another number of classes."""
        arch = self.largest().at(resolution, classes)
        moved = replace(self, resolution=arch.resolution, head=arch.head)
        return moved.with_published({name: a.at(resolution, classes) for name, a in self.published.items()})

    def with_published(self, members: Mapping[str, Architecture]) -> Space:
        return replace(self, published=dict(members))

    def attention_extremes(self) -> list[tuple[int, ...]]:
        """No global block at all, and as many as the space allows at full depth."""
        depths = [stage.depths[1] for stage in self.stages]
        most = tuple(depth if stage.global_ else 0 for stage, depth in zip(self.stages, depths, strict=True))
        return [(0,) * len(depths), most]

    def _kinds(self, index: int, stage: Stage) -> list[str]:
        try:
            kinds = [self.stages[index].kind(block) for block in stage.blocks]
        except ValueError as error:
            raise ValueError(f"stage {index + 1}: {error}") from None
        return [kind for kind in kinds if kind != "identity"]

    def _attention(self, depths: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Every allowed number of global blocks a stage, at these depths."""
        room = [depth if stage.global_ else 0 for stage, depth in zip(self.stages, depths, strict=True)]
        if self.placement == "stage_suffix":
            yield from product(*(range(count + 1) for count in room))
            return
        counts = [0] * len(room)
        yield tuple(counts)
        for index in reversed(range(len(room))):
            if not room[index]:
                return
            for count in range(1, room[index] + 1):
                counts[index] = count
                yield tuple(counts)


def _names(blocks: Sequence[BlockSpec]) -> str:
    return " and ".join(f"{block.kind}({block})" for block in blocks)


def _choices(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths)) if len(widths) < 8 else f"{widths[0]}, {widths[1]} .. {widths[-1]}"
