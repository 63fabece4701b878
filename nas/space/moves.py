"""Moves: small pure changes of an architecture, the actions of latency-driven slimming.

They follow EfficientFormer (arXiv:2206.01191, Sec. 4.2). The slimming engine evaluates them. A
further action is one more frozen dataclass with `action`, `apply` and `__str__`, and its legal uses
in `moves`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from nas.blocks import BlockSpec, Identity
from nas.space import Architecture, Space
from nas.space.candidates import likeness
from nas.space.place import HEAD, STEM, Place

Action = Literal["DR", "WR", "MR", "ER", "AR", "BR", "UN"]


@dataclass(frozen=True)
class Drop:
    """DR, depth reduction: the block at this position becomes identity.

    Attributes:
        stage, position: both count from 0.
    """

    action: ClassVar[Action] = "DR"

    stage: int
    position: int

    def apply(self, arch: Architecture) -> Architecture:
        return arch.with_stage(
            self.stage, arch.stages[self.stage].with_block(self.position, Identity())
        )

    def __str__(self) -> str:
        return f"drop stage {self.stage + 1} block {self.position + 1}"


@dataclass(frozen=True)
class Narrow:
    """WR, width reduction: the residual stream of a whole stage gets `width` channels.

    Attributes:
        stage: counted from 0.
        instead: pairs of a block of the stage that does not fit the new width and its replacement.
            An example is attention with heads of 32 channels at a width of 120.
    """

    action: ClassVar[Action] = "WR"

    stage: int
    width: int
    instead: tuple[tuple[BlockSpec, BlockSpec], ...] = ()

    def apply(self, arch: Architecture) -> Architecture:
        stage = arch.stages[self.stage].with_width(self.width)
        instead = dict(self.instead)
        blocks = (
            tuple(instead.get(block, block) for block in stage.blocks) if instead else stage.blocks
        )
        return arch.with_stage(self.stage, replace(stage, blocks=blocks))

    def __str__(self) -> str:
        return f"narrow stage {self.stage + 1} to {self.width}"


@dataclass(frozen=True)
class Localise:
    """MR, attention reduction: the global block at this position becomes local.

    The paper removes the first MB3D. Here it becomes an MB4D, as in the networks that the authors
    published.

    Attributes:
        stage, position: both count from 0.
        block: the local block that replaces it.
    """

    action: ClassVar[Action] = "MR"

    stage: int
    position: int
    block: BlockSpec

    def apply(self, arch: Architecture) -> Architecture:
        return arch.with_stage(
            self.stage, arch.stages[self.stage].with_block(self.position, self.block)
        )

    def __str__(self) -> str:
        return f"make stage {self.stage + 1} block {self.position + 1} local ({self.block.kind})"


@dataclass(frozen=True)
class Exchange:
    """ER, AR or BR: one block is exchanged for another candidate of its place and role.

    ER reduces the expansion of a block, the action that EfficientFormerV2 (arXiv:2212.08059, Sec.
    4.2) adds. AR changes the activation. BR is any other exchange of blocks. Unlike the other moves
    it may be undone by a later one.

    Attributes:
        place: the stem, the entry of a stage, a block or the head.
        before: the block at the place.
        block: its replacement.
    """

    place: Place
    before: BlockSpec
    block: BlockSpec

    @property
    def action(self) -> Action:
        return (
            "ER"
            if self._changed == ("expansion",)
            else "AR"
            if self._changed == ("activation",)
            else "BR"
        )

    @property
    def _changed(self) -> tuple[str, ...]:
        """Return the names of the hyperparameters that differ."""
        before = self.before.to_dict()
        after = self.block.to_dict()
        return tuple(name for name in before | after if before.get(name) != after.get(name))

    def apply(self, arch: Architecture) -> Architecture:
        return arch.with_block(self.place, self.block)

    def __str__(self) -> str:
        where = self.place.words
        if self.before.kind != self.block.kind:
            return f"make {where} {self.block.kind}({self.block})"
        before = self.before.to_dict()
        after = self.block.to_dict()
        return f"{where}: " + ", ".join(
            f"{name} {before[name]} to {after[name]}" for name in self._changed
        )


@dataclass(frozen=True)
class Widen(Narrow):
    """UN, a width reduction undone: the residual stream of a whole stage gets more channels."""

    action: ClassVar[Action] = "UN"

    def __str__(self) -> str:
        return f"widen stage {self.stage + 1} to {self.width}"


@dataclass(frozen=True)
class Restore:
    """UN, a depth or attention reduction undone: a position gets `block` back.

    Attributes:
        stage, position: both count from 0.
        before: the present block of the position, identity or a local block.
        block: the block that returns.
    """

    action: ClassVar[Action] = "UN"

    stage: int
    position: int
    before: BlockSpec
    block: BlockSpec

    def apply(self, arch: Architecture) -> Architecture:
        return arch.with_stage(
            self.stage, arch.stages[self.stage].with_block(self.position, self.block)
        )

    def __str__(self) -> str:
        where = f"stage {self.stage + 1} block {self.position + 1}"
        if isinstance(self.before, Identity):
            return f"put back {where} ({self.block.kind})"
        return f"make {where} global ({self.block.kind})"


Move = Drop | Narrow | Localise | Exchange | Restore


def moves(space: Space, arch: Architecture) -> list[Move]:
    """Return every single move from `arch` that leads to another member of `space`.

    They are in the order of stages. A width goes to the next smaller one. Only the first global
    block of a suffix (of the network or of a stage, as the space says) may become local.

    Args:
        arch: a member of the space. Its positions are those of `space.largest()` where it was made
            from that by moves.
    """
    return [
        *_drops(space, arch),
        *_narrows(space, arch),
        *_localises(space, arch),
        *exchanges(space, arch),
    ]


def narrow(space: Space, arch: Architecture, stage: int, width: int) -> Narrow:
    """Return the move of a stage, counted from 0, to a smaller width."""
    return Narrow(*_narrowed(space, arch, stage, width))


def _narrowed(
    space: Space, arch: Architecture, stage: int, width: int
) -> tuple[int, int, tuple[tuple[BlockSpec, BlockSpec], ...]]:
    """Return stage, width and replaced blocks of a move to another width.

    The replaced blocks are those that do not fit the new width, each with the most similar
    candidate that does.
    """
    blocks = dict.fromkeys(arch.stages[stage].blocks)
    fitted = ((block, space.fitted(stage, block, width)) for block in blocks)
    return stage, width, tuple(pair for pair in fitted if pair[0] != pair[1])


def localise(space: Space, arch: Architecture, stage: int, position: int) -> Localise:
    """Return the move that makes a global block local (stage and position count from 0).

    Its replacement is the most similar local candidate that fits the stage's width.
    """
    before = arch.stages[stage].blocks[position]
    candidates = space.candidates(stage, "local", arch.stages[stage].width)
    return Localise(stage, position, max(candidates, key=lambda block: likeness(before, block)))


def undoings(
    space: Space, arch: Architecture, only: int | None = None
) -> Iterator[Widen | Restore]:
    """Yield every move that undoes a drop, a narrowing (to any larger width) or a localisation.

    Args:
        arch: a member with a block or identity at every position of its space.
        only: index of the only stage to move in; every stage where None.
    """
    roles = [
        [c.kind(block) for block in s.blocks]
        for c, s in zip(space.stages, arch.stages, strict=True)
    ]
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        if (only is not None and index != only) or choice.fixed is not None:
            continue
        for width in choice.widths:
            if width > stage.width:
                yield Widen(*_narrowed(space, arch, index, width))
        # Invariant of a space: no local block follows a global one, within the stage or within the
        # whole network. `earlier` and `later` are the roles that a restored block must agree with.
        whole_network = space.placement == "network_suffix"
        for position, block in enumerate(stage.blocks):
            role = roles[index][position]
            earlier = roles[index][:position]
            later = roles[index][position + 1 :]
            if whole_network:
                earlier = [each for stage_roles in roles[:index] for each in stage_roles] + earlier
                later = later + [each for stage_roles in roles[index + 1 :] for each in stage_roles]
            # A local block may return only before all global ones.
            if role == "identity" and "global" not in earlier:
                for local in space.candidates(index, "local", stage.width):
                    yield Restore(index, position, block, local)
            # A global block may return, or replace a local one, only behind all local ones.
            if role != "global" and "local" not in later:
                for candidate in space.candidates(index, "global", stage.width):
                    yield Restore(index, position, block, candidate)


def exchanges(space: Space, arch: Architecture) -> Iterator[Exchange]:
    """Yield every exchange of one block for another candidate of its place and role."""
    for place, before, candidates in _places(space, arch):
        for block in candidates:
            if block != before:
                yield Exchange(place, before, block)


def _places(
    space: Space, arch: Architecture
) -> Iterator[tuple[Place, BlockSpec, tuple[BlockSpec, ...]]]:
    """Yield every place with a block: the place, its block and the candidates for it.

    Dropped positions are skipped.
    """
    if arch.stem is not None:
        yield STEM, arch.stem, space.stems
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        if choice.fixed is not None:
            continue
        # The space lists entries at its largest width; a member's entry has the width of its stage.
        if len(choice.entries) > 1:
            entries = tuple(replace(entry, width=stage.width) for entry in choice.entries)
            yield Place.entry(index, arch.stem is not None), stage.entry, entries
        if len(choice.local) > 1 or len(choice.global_) > 1:
            for position, block in enumerate(stage.blocks):
                role = choice.kind(block)
                if role != "identity":
                    yield (
                        Place.block(index, position),
                        block,
                        space.candidates(index, role, stage.width),
                    )
    if len(space.heads) > 1:
        yield HEAD, arch.head, space.heads


def _drops(space: Space, arch: Architecture) -> Iterator[Drop]:
    """Yield the drops of every block of stages above the least depth."""
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        # A stage keeps at least the least depth of its space, and a frozen one all of its blocks.
        if choice.fixed is None and stage.depth > choice.depths[0]:
            for position, block in enumerate(stage.blocks):
                if not isinstance(block, Identity):
                    yield Drop(index, position)


def _narrows(space: Space, arch: Architecture) -> Iterator[Narrow]:
    """Yield, for every stage, the move to its next smaller width."""
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        # Widths ascend, so the last smaller one is the next.
        smaller = [width for width in choice.widths if width < stage.width]
        if smaller:
            yield narrow(space, arch, index, smaller[-1])


def _localises(space: Space, arch: Architecture) -> Iterator[Localise]:
    """Yield the moves that make the first global block of a suffix local.

    Any other one would leave a local block behind a global one, which is not a member.
    """
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        first = next((p for p, block in enumerate(stage.blocks) if block in choice.global_), None)
        if first is not None:
            if choice.fixed is None:
                yield localise(space, arch, index, first)
            # The suffix spans the network, so its first block is that of the first stage that has
            # one.
            if space.placement == "network_suffix":
                return
