"""The accuracy law of single stages: their points of error, and the caution outside of the data.

`nas.accuracy.law_scores` adds the stages up to the expected accuracy of a whole member.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from nas.accuracy.law import (
    EXPANSION,
    Floats,
    Law,
    MapTerms,
    Recipe,
    log_factor,
    map_terms,
    stage_deficits,
)
from nas.blocks import BlockSpec
from nas.errors import InputError, nearest
from nas.space import Space, Stage

STEPS_PER_EXPANSION = 4
"""Units per expansion of 1. Expansions count in quarters, so that their sum is a whole number."""
WIDTH_RATIOS = (1.3, 2.6)
"""Range of the ratio of neighbouring stages' widths in nearly all published networks."""
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
_ROUNDING = 0.005
"""Share by which a figure may leave the published range and still count as within it."""
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
    _stages: dict[_Key, StageFacts] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _slopes: dict[_Key, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        """Return what a block adds to the sums that its stage's points depend on.

        Args:
            index: of the stage, counted from 0.
            block: a block or identity of the stage.

        Returns:
            Whether it is a block (1 or 0), whether it attends (1 or 0), its expansion in quarters,
            and for each further recipe whether it is of that recipe (1 or 0).
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
        return (
            1,
            int(role == "global"),
            round(STEPS_PER_EXPANSION * _expansion(block)),
            *(int(activation == name) for name in further),
        )

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
        key = index, width, counts
        facts = self._stages.get(key)
        if facts is not None:
            return facts
        if self.unshifted is None or self.shift is None:
            facts = self._computed(index, width, counts)
        else:
            # The first-order Taylor expansion of the points in the coefficients.
            before = self.unshifted.priced(index, width, counts)
            facts = replace(
                before, points=before.points + float(self.unshifted.slope(key) @ self.shift)
            )
        self._stages[key] = facts
        return facts

    def _computed(self, index: int, width: int, counts: tuple[int, ...]) -> StageFacts:
        blocks, attention, _, *further = counts
        if not self._size(index, blocks):
            reason = f"stage {index + 1} has no blocks"
            return StageFacts(EMPTY_POINTS, EMPTY_POINTS, 0.0, (reason,))
        # A stage of its entry alone has no mean expansion that could lie outside of the data.
        figures = [width, blocks, _mean_expansion(counts)] if blocks else [width, blocks]
        shares = [count / max(blocks, 1) for count in further]
        deficit = self._deficit(index, width, counts)
        points = deficit * math.exp(self._log_factor(shares))
        # The gain of a second recipe's blocks may be due to its training. It is not certain where
        # they are mixed with others.
        mixed = 0.0
        if any(shares):
            unmixed = deficit * math.exp(self._log_factor([0.0] * len(shares)))
            mixed = max(unmixed - points, 0.0)
        caution = 0.0
        reasons = []
        # No blocks at all are compared as the part of a block that the entry counts as.
        least = self.law.coefficients["entry"]
        # A space without published members has no ranges, and nothing counts as outside of them.
        for (what, low, high), value in zip(self._ranges[index], figures, strict=False):
            if low * (1 - _ROUNDING) <= value <= high * (1 + _ROUNDING):
                continue
            beyond = octaves(max(value, least), max(low, least), max(high, least))
            reasons.append(
                f"stage {index + 1}: {what} {value:.3g}, published members have {_range(low, high)}"
            )
            # Points are proportional to value^-exponent. To first order, an error of the exponent
            # changes them by the share error * ln(value / bound).
            caution += points * EXPONENT_ERROR * math.log(2) * beyond
        if self._published_stages[index]:
            # Numbers of attention blocks begin at 0, so their distance is counted in blocks, not in
            # octaves.
            attended = [seen[2] for seen in self._published_stages[index]]
            extra = max(min(attended) - attention, attention - max(attended), 0)
            if extra:
                published = _range(min(attended), max(attended))
                reasons.append(
                    f"stage {index + 1}: {attention} attention blocks, published members have"
                    f" {published}"
                )
                caution += ATTENTION_POINTS * extra
        return StageFacts(points, caution, mixed, tuple(reasons))

    def _deficit(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        """Return the points of error of a stage with at least one block or an entry that counts as
        one, at F = 1."""
        blocks, attention, *_ = counts
        deficit = stage_deficits(
            self.law.coefficients,
            self._terms[index],
            width=width,
            # As in the fit: an entry that is itself a block counts as a part of one.
            blocks=self._size(index, blocks),
            attention=attention,
            expansion=_mean_expansion(counts),
        )
        return float(deficit)

    def _size(self, index: int, blocks: int) -> float:
        """Return the number of blocks of a stage, with the part that its entry counts as."""
        return blocks + self.law.coefficients["entry"] * self._entry_is_block(index)

    def _points(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        """Return `priced(...).points` of the law without a shift."""
        blocks, _, _, *further = counts
        if not self._size(index, blocks):
            return EMPTY_POINTS
        shares = [count / max(blocks, 1) for count in further]
        return self._deficit(index, width, counts) * math.exp(self._log_factor(shares))

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
        factor = math.exp(self._log_factor([0.0] * (len(self.activations) - 1)))
        points = float(deficit) * factor * part / size
        return points * lost

    def jump(self, index: int, before: int, width: int) -> tuple[str, float]:
        """Return the reason and the caution (points) of a jump in width from the stage before.

        Both are empty within the range of published networks, and for the first stage.
        """
        if index == 0:
            return "", 0.0
        low, high = self._width_ratios[index]
        beyond = octaves(width / before, low, high)
        if beyond < 0.01:
            return "", 0.0
        reason = (
            f"stage {index + 1} is {width / before:.2g} times as wide as stage {index}, not"
            f" {low:.2g} to {high:.2g}"
        )
        return reason, RATIO_POINTS * beyond

    def slope(self, key: _Key) -> Floats:
        """Return the derivatives of a stage's points of error by the coefficients, (names,)."""
        slope = self._slopes.get(key)
        if slope is None:
            pairs = [
                (lower._points(*key), upper._points(*key)) for lower, upper in self._neighbours
            ]
            slope = self._slopes[key] = np.array(
                [(above - below) / (2 * _STEP) for below, above in pairs]
            )
        return slope

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

    def _log_factor(self, shares: Sequence[float]) -> float:
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
        return (0, 0, 0, *(0 for _ in self.activations[1:]))

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

    @cached_property
    def _ranges(self) -> list[list[tuple[str, float, float]]]:
        """Return per stage the name, minimum and maximum of each figure of published members."""
        ranges = []
        for seen in self._published_stages:
            figures = {
                "width": [each[0] for each in seen],
                "depth": [each[1] for each in seen],
                # A stage without blocks has no expansion.
                "mean expansion": [each[3] for each in seen if each[1]],
            }
            ranges.append([(name, min(each), max(each)) for name, each in figures.items() if each])
        return ranges

    @cached_property
    def _width_ratios(self) -> list[tuple[float, float]]:
        """Return the range of each stage's width over that of the stage before.

        It is `WIDTH_RATIOS`, extended to the published members. The first stage's is not used.
        """
        ranges = [WIDTH_RATIOS]
        for before, stage in pairwise(self._published_stages):
            ratios = [after[0] / first[0] for first, after in zip(before, stage, strict=True)]
            ranges.append((min([WIDTH_RATIOS[0], *ratios]), max([WIDTH_RATIOS[1], *ratios])))
        return ranges

    def _entry_is_block(self, index: int) -> bool:
        return self.scored.stages[index].entries[0].counts_as_block

    @cached_property
    def _published_stages(self) -> list[list[tuple[float, float, float, float]]]:
        """Return the published members' figures of each stage.

        They are (width, blocks, attention blocks, mean expansion), one tuple per member.
        """
        # A shift does not change the published members, so their figures are computed once.
        if self.unshifted is not None:
            return self.unshifted._published_stages
        stages = []
        for index in range(len(self.scored.stages)):
            seen = []
            for arch in self.scored.published.values():
                stage = arch.stages[index]
                sums = self.sums(index, stage)
                blocks, attention, *_ = sums
                expansion = _mean_expansion(sums)
                seen.append((float(stage.width), float(blocks), float(attention), expansion))
            stages.append(seen)
        return stages


def octaves(value: float, low: float, high: float) -> float:
    """Return by how many factors of two `value` lies outside of low to high; 0 inside."""
    return max(math.log2(low / value), math.log2(value / high), 0.0)


def _mean_expansion(counts: tuple[int, ...]) -> float:
    """Return the mean expansion of the blocks with these sums of `StageLaw.counts`.

    Without blocks it is the expansion at which the law's factor is 1.
    """
    blocks, _, quarters, *_ = counts
    return quarters / STEPS_PER_EXPANSION / blocks if blocks else EXPANSION


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _expansion(block: BlockSpec) -> float:
    """Return the hidden width of a block over its channels; 1 for a block without a hidden layer."""
    return float(getattr(block, "expansion", 1.0))


def _activation(block: BlockSpec) -> str:
    """Return a block's activation; an empty text for a block without one."""
    return str(getattr(block, "activation", ""))
