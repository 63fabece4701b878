"""The accuracy law of single stages: their points of error, and the caution outside of the data.

`nas.accuracy.law_scores` adds the stages up to the expected accuracy of a whole member.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nas.accuracy.law import (
    EXPANSION,
    Floats,
    Ints,
    Law,
    MapTerms,
    Numbers,
    Recipe,
    log_factor,
    map_terms,
    stage_deficits,
)
from nas.accuracy.law_ranges import PublishedStage, StageRange, stage_ranges
from nas.blocks import BlockSpec
from nas.errors import InputError, nearest
from nas.space import Space, Stage

STEPS_PER_EXPANSION = 4
"""Units per expansion of 1. Expansions count in quarters, so that their sum is a whole number."""
EXPONENT_ERROR = 0.15
"""Error of an exponent outside of the widths, depths and expansions of the published members."""
RATIO_POINTS = 0.5
"""Caution per octave that a ratio of neighbouring widths lies outside of the range, in points."""
ATTENTION_POINTS = 0.15
"""Caution per attention block of a stage above the most or below the least of any published member
there, in points."""
EMPTY_POINTS = 100.0
"""Points of error of a stage without blocks whose entry does not count as one either.

It lies beyond any data, and the power law would be infinite."""
_STEP = 1e-4
"""Shift of a coefficient for a central difference."""


_Key = tuple[int, int, tuple[int, ...]]
"""A stage's number (from 0), its width, and the sums of `StageLaw.counts` over its blocks."""


@dataclass(frozen=True)
class StageFacts:
    """The law's figures of one stage of a member.

    Attributes:
        points: points of error.
        caution: points that may be lost because the stage lies outside of the data.
        mixed: points that may be lost where other stages follow another recipe.
        reasons: why the stage lies outside of the data; empty where it lies inside.
    """

    points: float
    caution: float
    mixed: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class StageLaw:
    """The accuracy law for the stages of one space, in points of ImageNet top-1.

    Attributes:
        scored: the space, at the input size of the prediction.
        law: the fitted coefficients.
        training: the recipe; by default that of the space (`Space.recipes`).
        where: the beginning of error messages: the file that the scores were read from, or nothing.
        unshifted: the law without `shift`.
        shift: correction of the coefficients by evidence, (names,). It changes points to first
            order.
    """

    scored: Space
    law: Law
    training: Recipe | None = None
    where: str = ""
    unshifted: StageLaw | None = field(default=None, repr=False, compare=False)
    shift: Floats | None = field(default=None, repr=False, compare=False)
    # Caches: a search asks for the same stages again and again. With `init=False` a copy by
    # `replace`, which has other coefficients, begins with empty ones.
    _counts: dict[tuple[int, BlockSpec], tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _known: dict[tuple[int, Stage], StageFacts] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _stages: dict[_Key, tuple[float, float, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _slopes: dict[_Key, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        """Return what a block adds to the sums that its stage's points depend on.

        Args:
            index: of the stage, counted from 0.
            block: a block or identity of the stage.

        Returns:
            Whether it is a block (1 or 0), whether it attends (1 or 0), its expansion up to
            `least_expansions` and beyond in quarters, and for each further recipe whether it is of
            that recipe (1 or 0).
        """
        counts = self._counts.get((index, block))
        if counts is None:
            counts = self._counts[index, block] = self._counted(index, block)
        return counts

    def _counted(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        role = self.scored.stages[index].kind(block)
        further = self.activations[1:]
        if role == "identity":
            return self._none
        activation = _activation(block)
        quarters = round(STEPS_PER_EXPANSION * _expansion(block))
        least = self._least_quarters(index)
        return (
            1,
            int(role == "global"),
            min(quarters, least),
            max(quarters - least, 0),
            *(int(activation == name) for name in further),
        )

    def _least_quarters(self, index: int) -> int:
        return round(STEPS_PER_EXPANSION * self.least_expansions[index])

    @cached_property
    def least_expansions(self) -> tuple[float, ...]:
        """Return the expansion of each stage below which a block counts as a part of one.

        The law has the number of blocks and their mean expansion, as papers publish them. By a mean
        a stage would gain by the loss of its narrowest block, since the mean of the others is
        higher. So a block that is narrower than all published ones counts as that part of the
        narrowest of them which its hidden width is. Members as published keep their figures.
        """
        least = []
        for index, stage in enumerate(self.scored.stages):
            published = [
                _expansion(block)
                for arch in self.scored.published.values()
                for block in arch.stages[index].present
            ]
            # Without published members: the expansion at which the law's factor is 1, if any
            # candidate has it.
            candidates = [_expansion(block) for block in (*stage.local, *stage.global_)]
            least.append(min(published) if published else min(EXPANSION, max(candidates)))
        return tuple(least)

    def facts(self, index: int, stage: Stage) -> StageFacts:
        """Return the law's figures of a stage (counted from 0) of a member."""
        facts = self._known.get((index, stage))
        if facts is None:
            facts = self._known[index, stage] = self.priced(
                index, stage.width, self.sums(index, stage)
            )
        return facts

    def sums(self, index: int, stage: Stage) -> tuple[int, ...]:
        """Return the sums of `counts` over a stage's blocks."""
        try:
            counted = [self.counts(index, block) for block in stage.blocks]
        except ValueError as error:
            raise InputError(f"{self.where}stage {index + 1}: {error}") from None
        # The zeros are the sums of a stage whose entry is all that it has.
        return tuple(map(sum, zip(self._none, *counted, strict=True)))

    def priced(self, index: int, width: int, counts: tuple[int, ...]) -> StageFacts:
        """Return the law's figures of a stage of this width with these sums of `counts`."""
        blocks, attention, *_ = counts
        figures = self.numbers(index, width, counts)
        if not self._size(index, blocks):
            return StageFacts(*figures, (f"stage {index + 1} has no blocks",))
        size, mean = (float(each[0]) for each in self._blocks(index, np.array([counts]).T))
        reasons = self._ranges[index].reasons(width, blocks, attention, mean)
        if self._ranges[index].seen and size < blocks:
            reasons.append(
                f"stage {index + 1}: blocks with expansions below"
                f" {self.least_expansions[index]:g}, the least of published members"
            )
        return StageFacts(*figures, tuple(reasons))

    def numbers(
        self, index: int, width: int, counts: tuple[int, ...]
    ) -> tuple[float, float, float]:
        """Return points, caution and mixed points of a stage, as of `StageFacts`."""
        known = self._stages.get((index, width, counts))
        if known is None:
            # Slimming weighs all widths of a stage. To compute them at once takes little longer
            # than one.
            widths = tuple({*self.scored.stages[index].widths, width})
            columns = np.tile(np.array([counts]).T, len(widths))
            table = np.array(self.figures(index, np.array(widths), columns)).T.tolist()
            for each, figures in zip(widths, table, strict=True):
                self._stages[index, each, counts] = (figures[0], figures[1], figures[2])
            known = self._stages[index, width, counts]
        return known

    def figures(self, index: int, widths: Ints, counts: Ints) -> tuple[Floats, Floats, Floats]:
        """Return points, caution and mixed points of many stages at once, as of `StageFacts`.

        A search prices a hundred thousand of them, which one by one takes many seconds.

        Args:
            index: of the stage, counted from 0.
            widths: (stages,), in channels.
            counts: (counts, stages), the sums of `counts`.
        """
        if self.unshifted is not None and self.shift is not None:
            # The first-order Taylor expansion of the points in the coefficients.
            points, caution, mixed = self.unshifted.figures(index, widths, counts)
            return (
                points + self.shift @ self.unshifted.slopes(index, widths, counts),
                caution,
                mixed,
            )
        blocks, attention, _, _, *further = counts
        size, expansion = self._blocks(index, counts)
        shares = [count / np.maximum(blocks, 1) for count in further]
        points = self._points(index, widths, counts)
        # The gain of a second recipe's blocks may be due to its training. It is not certain where
        # they are mixed with others.
        unshared = self._log_factor([0.0] * len(shares)) - self._log_factor(shares)
        mixed = np.maximum(points * np.exp(unshared) - points, 0.0)
        ranges = self._ranges[index]
        # No blocks at all are compared as the part of a block that the entry counts as.
        beyond = ranges.octaves_beyond(widths, blocks, expansion, self.law.coefficients["entry"])
        if ranges.seen:
            # By how many octaves the hidden widths are below those of the narrowest published blocks.
            beyond += np.log2(np.where(blocks > 0, blocks / np.where(blocks > 0, size, 1), 1))
        # Points are proportional to value^-exponent. To first order, an error of the exponent
        # changes them by the share error * ln(value / bound).
        caution = points * EXPONENT_ERROR * math.log(2) * beyond
        caution += ATTENTION_POINTS * ranges.attention_beyond(attention)
        empty = self._size(index, blocks) == 0
        return points, np.where(empty, EMPTY_POINTS, caution), np.where(empty, 0.0, mixed)

    def _blocks(self, index: int, counts: Ints) -> tuple[Floats, Floats]:
        """Return the number of blocks that stages count as, and their mean expansion, (stages,) each.

        Narrow blocks count as parts (`least_expansions`). Without blocks the mean is the expansion
        at which the law's factor is 1.

        Args:
            index: of the stages, counted from 0.
            counts: (counts, stages), the sums of `counts`.
        """
        blocks, _, narrow, beyond, *_ = counts
        size = narrow / self._least_quarters(index)
        least = self.least_expansions[index]
        some = blocks > 0
        # All blocks have at least this expansion, so that the mean of none is not computed.
        mean = least + beyond / STEPS_PER_EXPANSION / np.where(some, size, 1)
        return size, np.where(some, mean, EXPANSION)

    def _size(self, index: int, blocks: Numbers) -> Numbers:
        """Return the number of blocks of a stage, with the part that its entry counts as."""
        return blocks + self.law.coefficients["entry"] * self._entry_is_block(index)

    def _points(self, index: int, widths: Ints, counts: Ints) -> Floats:
        """Return the points of error of stages by the law without a shift, (stages,)."""
        blocks, attention, _, _, *further = counts
        wide, expansion = self._blocks(index, counts)
        # As in the fit: an entry that is itself a block counts as a part of one.
        size = self._size(index, wide)
        empty = np.equal(size, 0)
        deficits = stage_deficits(
            self.law.coefficients,
            self._terms[index],
            width=widths.astype(np.float64),
            blocks=np.where(empty, 1, size),
            attention=attention,
            expansion=expansion,
        )
        shares = [count / np.maximum(blocks, 1) for count in further]
        points: Floats = np.where(empty, EMPTY_POINTS, deficits * np.exp(self._log_factor(shares)))
        return points

    def entry_points(self, index: int, entry: BlockSpec, before: int, width: int) -> float:
        """Return the cost of an entry with a smaller hidden width than the largest candidate's.

        The entry counts as its part of a block of the stage, with the law's exponent of expansion,
        because no published row varies it alone.

        Args:
            index: of the stage, counted from 0.
            entry: the block that enters the stage.
            before: number of its input channels.
            width: of the stage, in channels.
        """
        candidates = self.scored.stages[index].entries
        if len(candidates) < 2 or not entry.counts_as_block:
            return 0.0
        part = self.law.coefficients["entry"]
        # The price of an entry may not depend on the stage's depth, or costs would not add up over
        # parts. So the middle of the depths stands for it.
        depth = sum(self.scored.stages[index].depths) / 2
        size = depth + part
        deficit = stage_deficits(
            self.law.coefficients,
            # Attention is counted with the stage's own blocks: an entry has its part in the term
            # of the size alone.
            replace(self._terms[index], without=0.0),
            width=width,
            blocks=size,
            attention=0,
            expansion=EXPANSION,
        )
        # Another recipe has other entries, so only candidates of the same activation are compared.
        alike = [c for c in candidates if _activation(c) == _activation(entry)]
        most = max(_expansion(candidate) for candidate in alike)
        # e^-c over that of the largest candidate, less 1: the growth of the deficit.
        lost: float = (_expansion(entry) / most) ** -self.law.coefficients["expansion"] - 1
        factor = float(np.exp(self._log_factor([0.0] * (len(self.activations) - 1))))
        points = float(deficit) * factor * part / size
        return points * lost

    def jump(self, index: int, before: int, width: int) -> tuple[str, float]:
        """Return the reason and the caution (points) of a jump in width from the stage before.

        Both are empty within the range of published networks, and for the first stage.
        """
        reason, beyond = self._ranges[index].jump(before, width)
        return reason, RATIO_POINTS * beyond

    def slope(self, key: _Key) -> Floats:
        """Return the derivatives of a stage's points of error by the coefficients, (names,)."""
        slope = self._slopes.get(key)
        if slope is None:
            index, width, counts = key
            slopes = self.slopes(index, np.array([width]), np.array([counts]).T)
            slope = self._slopes[key] = slopes[:, 0]
        return slope

    def slopes(self, index: int, widths: Ints, counts: Ints) -> Floats:
        """Return the derivatives of the points of many stages, (names, stages), as `slope`."""
        return np.array(
            [
                (upper._points(index, widths, counts) - lower._points(index, widths, counts))
                / (2 * _STEP)
                for lower, upper in self._neighbours
            ]
        )

    @cached_property
    def _neighbours(self) -> list[tuple[StageLaw, StageLaw]]:
        """Return the law with each coefficient slightly smaller and larger, for central differences."""
        # One law per coefficient and direction, kept: each computes its map terms and factors once
        # for all stages.
        shifts = _STEP * np.eye(len(self.law.values))
        return [
            (self._with_values(self.law.values - s), self._with_values(self.law.values + s))
            for s in shifts
        ]

    def _with_values(self, values: Floats) -> StageLaw:
        return replace(self, law=replace(self.law, values=values))

    def _log_factor(self, shares: Sequence[Numbers]) -> Numbers:
        """Return ln F of a stage whose blocks have these shares of the further recipes."""
        own = self.law.coefficients.get((self.training or self.recipe).factor_name, 0.0)
        others = (
            self.law.coefficients.get(recipe.factor_name, own) for recipe in self._recipes[1:]
        )
        # A given recipe holds for all blocks.
        if self.training is not None:
            return self._shared_factor + own
        return (
            self._shared_factor
            + own
            + sum(s * (other - own) for s, other in zip(shares, others, strict=True))
        )

    @cached_property
    def _shared_factor(self) -> float:
        recipe = self.training or self.recipe
        # The law has one mixer per network: that of its local blocks, which a family shares.
        mixer = self.scored.stages[0].local[0].mixer
        effects = (
            self.side,
            float(recipe.distilled),
            recipe.epochs,
            float(mixer == "pool"),
            float(mixer == "none"),
        )
        return float(log_factor(self.law.coefficients, *effects))

    @cached_property
    def _recipes(self) -> tuple[Recipe, ...]:
        """Return the recipe of each of the space's activations, the usual one first.

        There is one without a name where none is known.
        """
        recipes = []
        for name in self.scored.recipes.values():
            if name not in self.law.recipes:
                raise InputError(
                    f"{self.scored.path or self.scored.name}: recipe: unknown recipe '{name}'"
                    f"{nearest(name, self.law.recipes)}"
                )
            recipes.append(self.law.recipes[name])
        return tuple(recipes) or (Recipe("", ""),)

    @property
    def recipe(self) -> Recipe:
        return self._recipes[0]

    @cached_property
    def activations(self) -> tuple[str, ...]:
        return tuple(self.scored.recipes) or ("",)

    @cached_property
    def _none(self) -> tuple[int, ...]:
        """Return the `counts` of nothing."""
        return (0, 0, 0, 0, *(0 for _ in self.activations[1:]))

    def recipe_marks(self, stage: Stage) -> frozenset[str]:
        """Return the activations of a stage's blocks, which identify their recipes.

        The set is empty where a space has a single recipe.
        """
        if len(self.activations) == 1:
            return frozenset()
        return frozenset(_activation(block) for block in stage.present)

    @cached_property
    def side(self) -> float:
        return math.sqrt(self.scored.resolution[0] * self.scored.resolution[1])

    @cached_property
    def _terms(self) -> list[MapTerms]:
        """Return the law's terms of each stage's map size."""
        shapes = (self.scored.shape(index, 1) for index in range(len(self.scored.stages)))
        return [
            map_terms(self.law.coefficients, math.sqrt(shape.height * shape.width))
            for shape in shapes
        ]

    def _entry_is_block(self, index: int) -> bool:
        return self.scored.stages[index].entries[0].counts_as_block

    @cached_property
    def _ranges(self) -> list[StageRange]:
        """Return the ranges of each stage's figures in published members."""
        # A shift does not change the published members, so their figures are computed once.
        if self.unshifted is not None:
            return self.unshifted._ranges
        published_members = self.scored.published.values()
        return stage_ranges(
            [
                [self._published(index, arch.stages[index]) for arch in published_members]
                for index in range(len(self.scored.stages))
            ]
        )

    def _published(self, index: int, stage: Stage) -> PublishedStage:
        """Return the figures of a stage of a published member."""
        sums = self.sums(index, stage)
        blocks, attention, *_ = sums
        expansion = float(self._blocks(index, np.array([sums]).T)[1][0])
        return float(stage.width), float(blocks), float(attention), expansion


def _expansion(block: BlockSpec) -> float:
    """Return the hidden width of a block over its channels; 1 for a block without a hidden layer."""
    return float(getattr(block, "expansion", 1.0))


def _activation(block: BlockSpec) -> str:
    """Return a block's activation; an empty text for a block without one."""
    return str(getattr(block, "activation", ""))
