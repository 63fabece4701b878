"""The single moves that scores are recorded for: their rows, and the members that measure them.

`nas train` and `nas score` evaluate the members, about one per move, each for one row.
`nas.accuracy.recorded` adds the rows up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.accuracy.hidden_widths import expansions, family, scored_candidates
from nas.blocks import BlockSpec
from nas.space import Architecture, Space
from nas.space.candidates import ROLES, Role
from nas.space.moves import Drop, Exchange, Localise, exchanges, localise, moves, narrow
from nas.space.place import HEAD, STEM, Place

MoveName = Literal["drop", "narrow", "localise", "exchange"]


@dataclass(frozen=True)
class Score:
    """One measured move: one row of `scores.csv`.

    Attributes:
        move: the kind of move.
        place: the changed place, named as its operation (stage3_block4, stem, head), or the stage
            that was narrowed.
        choice: the width that a stage was narrowed to, or the block that was put at a place, as
            `kind(hyperparameters)`; empty for the other moves.
        importance: the paper's ratio of alphas, (alpha_3D + alpha_4D) / alpha_I, on the rows of
            dropped positions.
        accuracy_drop: points of top-1 as measured; noise can make it negative. For a localised
            block it is the drop from the variant before it, since global blocks become local one
            after the other, from the first one on.
        standard_error: of `accuracy_drop`, in points; never 0
            (`nas.accuracy.scores.difference_error`).
        cost: points of top-1 that a search adds up.
        loss_increase: growth of the held-out cross-entropy.
        lost: number of held-out images that were right before and are wrong after; None in older
            files.
        gained: number of held-out images that were wrong before and are right after; None in older
            files.
    """

    move: MoveName
    place: str
    cost: float
    choice: str = ""
    importance: float | None = None
    accuracy_drop: float | None = None
    standard_error: float | None = None
    loss_increase: float | None = None
    lost: int | None = None
    gained: int | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the move, the place and the choice."""
        return self.move, self.place, self.choice


@dataclass(frozen=True)
class MeasuredWith:
    """The weights, images and settings that scores were measured with.

    Attributes:
        weights: SHA-256 of the supernet's weights (`nas.accuracy.recorded_file.weights_digest`).
        data: fingerprint of the images that the supernet was trained on; the split of the data set
            is part of it.
        images: number of held-out images that accuracies were measured on.
        calibration_images: number of training images that gave the batch norms their statistics.
        widths: maximum number of measured widths per stage.
        precision: of the supernet's computation: fp32 or bf16.
        date: of the measurement, as 2026-11-29.
    """

    weights: str
    data: str
    images: int
    calibration_images: int
    widths: int
    precision: str
    date: str

    @property
    def identity(self) -> dict[str, str | int]:
        """Return the figures that the evaluation of one member depends on.

        Evaluations that agree in these may be in one file.
        """
        return {
            "weights": self.weights,
            "data": self.data,
            "images": self.images,
            "calibration_images": self.calibration_images,
            "precision": self.precision,
        }


def choice_text(block: BlockSpec) -> str:
    """Return a block as `scores.csv` names it."""
    return f"{block.kind}({block})"


def reference(space: Space, stage: int, position: int, role: Role) -> BlockSpec:
    """Return the candidate of a role that costs 0 at a position.

    It is the largest member's block, or the local block that this one becomes.

    Args:
        space: of the scores.
        stage: counted from 0.
        position: in the stage, counted from 0.
        role: local or global.
    """
    largest = space.largest()
    block = largest.stages[stage].blocks[position]
    return (
        block
        if space.stages[stage].kind(block) == role
        else localise(space, largest, stage, position).block
    )


def scored_blocks(space: Space, stage: int, position: int, role: Role) -> list[BlockSpec]:
    """Return the candidates of a role whose exchange is evaluated at a position.

    Candidates that differ in their expansion alone are evaluated at the ends only
    (`nas.accuracy.hidden_widths`). Where the largest member has a global block, its hidden widths
    stand for those of the local blocks there.

    Args:
        space: of the scores.
        stage: counted from 0.
        position: in the stage, counted from 0.
        role: local or global.
    """
    choice = space.stages[stage]
    width = choice.widths[-1]
    free = reference(space, stage, position, role)
    block = space.largest().stages[stage].blocks[position]
    lent = None
    own = choice.kind(block)
    if own != role and own != "identity":
        others = space.candidates(stage, own, width)
        lent = expansions([each for each in others if family(each) == family(block)])
    return scored_candidates(space.candidates(stage, role, width), free, lent)


def wanted_keys(space: Space, every: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yield the keys of the rows that scores of a space must have.

    Each stage must have a row of its smallest width, and each position one of every candidate that
    fits the largest width, but for expansions that are interpolated (`scored_blocks`).

    Args:
        space: of the scores.
        every: yield also the keys of rows that scores may have: of all expansions.
    """
    largest = space.largest()
    for index, stage in enumerate(space.stages):
        for position in range(stage.depths[1]):
            place = str(Place.block(index, position))
            # In a stage of fixed depth nothing is ever dropped.
            if stage.depths[0] < stage.depths[1]:
                yield "drop", place, ""
            if stage.global_:
                yield "localise", place, ""
            for role in ROLES:
                candidates = space.candidates(index, role, stage.widths[-1])
                if len(candidates) < 2:
                    continue
                if not every:
                    candidates = tuple(scored_blocks(space, index, position, role))
                for block in candidates:
                    if block != reference(space, index, position, role):
                        yield "exchange", place, choice_text(block)
        for entry in stage.entries:
            if entry != largest.stages[index].entry:
                yield (
                    "exchange",
                    str(Place.entry(index, largest.stem is not None)),
                    choice_text(entry),
                )
        # The other widths are interpolated between this one and the largest, where they were not
        # measured.
        if len(stage.widths) > 1:
            yield "narrow", str(Place.whole(index)), str(stage.widths[0])
    for end, candidates in ((STEM, space.stems), (HEAD, space.heads)):
        for block in candidates:
            if block != largest.block(end):
                yield "exchange", str(end), choice_text(block)


Key = tuple[str, str, str]
"""Move, place and choice of a row of recorded scores."""
LARGEST: Key = ("none", "", "")
"""Key of the largest member, which no move changed."""


@dataclass(frozen=True)
class Variant:
    """An architecture to evaluate.

    Attributes:
        key: of the row that it is for.
        arch: the architecture.
        base: key of the variant that it is compared with.
    """

    key: Key
    arch: Architecture
    base: Key = LARGEST


def variants(space: Space, widths: int | None = None, every: bool = False) -> list[Variant]:
    """Return the largest member, and members that are one move away from it or from another variant.

    Global blocks may become local only from the first one on. So each of these variants has one
    more local block than the one before, with which it is compared. An exchange of such a local
    block starts from the variant that has it.

    Args:
        space: of the supernet.
        widths: maximum number of a stage's widths, evenly spaced with both ends; None for all.
        every: return also the variants of all expansions, which older versions evaluated.
    """
    largest = space.largest()
    wanted = set(wanted_keys(space, every))
    found = [Variant(LARGEST, largest)]
    for index, stage in enumerate(space.stages):
        if stage.depths[0] < stage.depths[1]:
            for position in range(stage.depths[1]):
                place = Place.block(index, position)
                found.append(
                    Variant(("drop", str(place), ""), Drop(index, position).apply(largest))
                )
        # The largest width costs 0 by definition and has no variant.
        count = min(widths or len(stage.widths), len(stage.widths))
        chosen = np.unique(np.linspace(0, len(stage.widths) - 1, count).round().astype(int))
        for width in (stage.widths[i] for i in reversed(chosen) if i < len(stage.widths) - 1):
            key = ("narrow", str(Place.whole(index)), str(width))
            found.append(Variant(key, narrow(space, largest, index, width).apply(largest)))
    found += [_exchanged(move, largest, LARGEST) for move in exchanges(space, largest)]
    found += _localised(space)
    return [each for each in found if each.key[0] != "exchange" or each.key in wanted]


def _localised(space: Space) -> Iterator[Variant]:
    """Yield the variants with local blocks in place of global ones, stage by stage.

    Where global blocks may only end a stage, each stage starts from the largest member. Where they
    may only end the network, the blocks of all earlier stages are local already.
    """
    arch = space.largest()
    base = LARGEST
    for index in range(len(space.stages)):
        if space.placement == "stage_suffix":
            arch = space.largest()
            base = LARGEST
        # `moves` makes only the first global block local, so that each turn adds one local block.
        while legal := [
            m for m in moves(space, arch) if isinstance(m, Localise) and m.stage == index
        ]:
            arch = legal[0].apply(arch)
            place = Place.block(index, legal[0].position)
            yield Variant(("localise", str(place), ""), arch, base)
            base = ("localise", str(place), "")
            # At all other places exchanges start from the largest member, or had an earlier turn.
            yield from (
                _exchanged(move, arch, base)
                for move in exchanges(space, arch)
                if move.place == place
            )


def _exchanged(move: Exchange, arch: Architecture, base: Key) -> Variant:
    return Variant(("exchange", str(move.place), choice_text(move.block)), move.apply(arch), base)
