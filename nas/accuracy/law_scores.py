"""The accuracy law as the scores of a space: what ships for every space, before anything is
trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

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
from nas.accuracy.scores import Accuracy, Scores
from nas.blocks import BlockSpec, EntrySpec, HeadSpec
from nas.errors import InputError, check_type, nearest
from nas.space import Architecture, Space, Stage

STEPS_PER_EXPANSION = 4
"""Expansions are counted in quarters, so that their sum over a stage is a whole number."""
SIDES = (128.0, 384.0)
"""Input sizes of the fitted rows."""
WIDTH_RATIOS = (1.3, 2.6)
"""Between the widths of neighbouring stages: what nearly all published networks keep."""
EXPONENT_ERROR = 0.15
"""What an exponent may be off by outside of the widths, depths and expansions of a space's
published members."""
RATIO_POINTS = 0.5
"""Points per octave that a ratio of neighbouring widths lies outside of `WIDTH_RATIOS`."""
ATTENTION_POINTS = 0.15
"""Points per attention block that a stage has above or below what any published member has there.
"""
SIDE_SHARE = 0.3
"""Share of the shortfall per octave that the input lies outside of `SIDES`."""
UNKNOWN_POINTS = 0.1
"""Points per halving of the parameters of a stem or a head: no published row tells what these are
worth."""
_ROUNDING = 0.005
"""Share by which a figure may leave the published range and count as within it."""
_STEP = 1e-4
"""By which coefficients are shifted for a derivative."""
DIFFERENCE_SHARE = 0.1
"""Error of the form in a difference between two members: a share of what their stages differ by."""


_Key = tuple[int, int, tuple[int, ...]]
"""A stage's number from 0, its width, and the sums of `LawScores.counts` over its blocks."""


@dataclass(frozen=True)
class _StageFacts:
    """One stage of a member as the law sees it.

    Attributes:
        points: of error.
        caution: points that may be lost because the stage lies outside of the data.
        mixed: points that may be lost where other stages follow another recipe.
        reasons: what lies outside.
    """

    points: float
    caution: float
    mixed: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class LawScores(Scores):
    """Expected ImageNet top-1 of the members of a space, by the accuracy law.

    Args:
        scored: the space, at the input size that is asked about. The number of classes and the task
            are free: the figure is the top-1 that the network would have on ImageNet.
        law: the fitted coefficients.
        training: the recipe; by default that of the space (`Space.recipes`), or one of which only
            the spread is known.
        caution: how much of what may be lost outside of the data `cost` contains; 0 for the
            expected cost.
        scale: what a point of the law is in points of the metric.
        unshifted, shift: scores whose coefficients these shift (names,), to first order: what
            evidence corrects (`nas.accuracy.posterior`).
    """

    scored: Space
    law: Law
    training: Recipe | None = None
    caution: float = 0.0
    scale: float = 1.0
    path: str = ""
    metric: str = "top1"
    unshifted: LawScores | None = field(default=None, repr=False, compare=False)
    shift: Floats | None = field(default=None, repr=False, compare=False)
    _known: dict[tuple[int, Stage], _StageFacts] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _stages: dict[_Key, _StageFacts] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _slopes: dict[_Key, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        height, width = self.scored.resolution
        recipe = (self.training or self._recipe).name or "no recipe"
        return (
            f"LawScores({self.space} at {height}x{width}, {recipe}, law of"
            f" {self.law.date or 'no date'})"
        )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what the figures rest on."""
        recipe = self.training or self._recipe
        trained = (
            f"trained as {recipe.name}'s authors did" if recipe.name else "of no published recipe"
        )
        return (f"accuracy law fitted to {self.law.rows} published ImageNet results", trained)

    @property
    def fingerprint(self) -> str:
        """Return what tells these scores from others, on every machine."""
        values = ",".join(f"{value:.6g}" for value in self.law.values)
        shift = "" if self.shift is None else ",".join(f"{value:.6g}" for value in self.shift)
        return (
            f"law {self.law.date} {values} {shift} {self.scale:g} {self.caution:g} {self.training}"
        )

    @property
    def absolute(self) -> bool:
        """Return whether a level is known: not without a recipe, nor more than an octave outside of
        the data's input sizes."""
        known = self._recipe.name or self.training is not None
        return bool(known) and _octaves(self._side, *SIDES) <= 1

    def at(self, space: Space) -> LawScores:
        """Return the scores of the same space at another input size."""
        if space is self.scored:
            return self
        return replace(
            self, scored=space, unshifted=self.unshifted.at(space) if self.unshifted else None
        )

    def cautious(self) -> LawScores:
        return replace(self, caution=1.0)

    def with_values(self, values: Floats) -> LawScores:
        """Return the scores with other coefficients (in the order of `law.names`)."""
        return replace(self, law=replace(self.law, values=values))

    def shifted(self, shift: Floats) -> LawScores:
        """Return the scores with coefficients shifted by so much (in the order of `law.names`), to
        first order."""
        return replace(self, unshifted=self.unshifted or self, shift=shift)

    def check(self, space: Space) -> None:
        if space.name != self.space:
            raise InputError(
                f"{self._where}scores of space '{self.space}', not of '{space.name}'. "
                f"Fix: leave out --scores, the law covers '{space.name}' too"
            )

    def save(self, folder: str | Path) -> None:
        from nas.accuracy.posterior_file import write_law_scores

        write_law_scores(self, Path(folder))

    def cost(self, arch: Architecture) -> float:
        known = self._published_member(arch)
        if known is not None:
            return self._level - self.law.published[known].top1 * self.scale
        return self.parts_cost(arch)

    def parts_cost(self, arch: Architecture) -> float:
        """Return the sum of the parts of `cost`, for a published member what the law alone says."""
        if len(arch.stages) != len(self.scored.stages):
            raise InputError(
                f"{self._where}the space has {len(self.scored.stages)} stages, the architecture "
                f"has {len(arch.stages)}"
            )
        total = self.head_cost(arch.head)
        if arch.stem is not None:
            total += self.stem_cost(arch.stem)
        before = self._channels_into(arch)
        for index, stage in enumerate(arch.stages):
            total += self.entry_cost(index, stage.entry, before[index]) + self._cost_of(
                self._facts(index, stage)
            )
        return total

    def accuracy(self, arch: Architecture) -> Accuracy:
        check_type("arch", arch, Architecture, "nas.load_architecture")
        value = self._level - self.cost(arch)
        known = self._published_member(arch)
        source = "; ".join(self.notes)
        if known is not None:
            figure = self.law.published[known]
            # A repeated training of the same network differs by about this much.
            error = self.law.model_points * self.scale
            return Accuracy(
                value,
                error,
                self.metric,
                f"published: {figure.source}",
                predicted=figure.predicted,
                predicted_error=figure.standard_error,
            )
        reasons, caution = self._outside(arch)
        variance = self._variance(arch) + caution**2
        return Accuracy(value, math.sqrt(variance) * self.scale, self.metric, source, reasons)

    def reasons(self, arch: Architecture) -> tuple[str, ...]:
        """Return why a member lies outside of what the data know; nothing where it lies inside."""
        return self._outside(arch)[0]

    def difference_error(self, arch: Architecture, other: Architecture) -> float:
        gradient = self.gradient(arch) - self.gradient(other)
        variance = float(gradient @ self.law.covariance @ gradient)
        apart = sum(
            abs(a - b) for a, b in zip(self._points(arch), self._points(other), strict=True)
        )
        return math.sqrt(variance + (DIFFERENCE_SHARE * apart) ** 2) * self.scale

    def exceptions(self) -> Sequence[Architecture]:
        return [self.scored.place(arch) for arch in self._members.values()]

    def stem_cost(self, stem: EntrySpec) -> float:
        return self.scale * self.caution * self._unknown(stem, self.scored.stems, self._image)

    def head_cost(self, head: HeadSpec) -> float:
        """Return the constant that makes the largest member cost nothing, and what a lesser head
        may lose."""
        return -self._constant + self.scale * self.caution * self._unknown(
            head, self.scored.heads, None
        )

    def entry_cost(self, index: int, entry: EntrySpec, before: int) -> float:
        width = entry.width
        points = self._entry_points(index, entry, before, width)
        return self.scale * (points + self.caution * self._ratio(index, before, width)[1])

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        """Return blocks, attention blocks, their expansion in quarters, and blocks of each further
        recipe."""
        role = self.scored.stages[index].kind(block)
        further = self._activations[1:]
        if role == "identity":
            return (0, 0, 0, *(0 for _ in further))
        activation = _activation(block)
        return (
            1,
            int(role == "global"),
            round(STEPS_PER_EXPANSION * _expansion(block)),
            *(int(activation == name) for name in further),
        )

    def stage_cost(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        return self._cost_of(self._stage(index, width, counts))

    # What the law says of one stage

    def _cost_of(self, facts: _StageFacts) -> float:
        return self.scale * (facts.points + self.caution * (facts.caution + facts.mixed))

    def _facts(self, index: int, stage: Stage) -> _StageFacts:
        facts = self._known.get((index, stage))
        if facts is None:
            facts = self._known[index, stage] = self._stage(
                index, stage.width, self._sums(index, stage)
            )
        return facts

    def _sums(self, index: int, stage: Stage) -> tuple[int, ...]:
        """Return the sums of `counts` over a stage's blocks."""
        try:
            counted = [self.counts(index, block) for block in stage.blocks]
        except ValueError as error:
            raise InputError(f"{self._where}stage {index + 1}: {error}") from None
        return tuple(map(sum, zip(*counted, strict=True)))

    def _stage(self, index: int, width: int, counts: tuple[int, ...]) -> _StageFacts:
        key = index, width, counts
        facts = self._stages.get(key)
        if facts is not None:
            return facts
        if self.unshifted is None or self.shift is None:
            facts = self._stage_facts(index, width, counts)
        else:
            before = self.unshifted._stage(index, width, counts)
            facts = replace(
                before, points=before.points + float(self.unshifted._slope(key) @ self.shift)
            )
        self._stages[key] = facts
        return facts

    def _stage_facts(self, index: int, width: int, counts: tuple[int, ...]) -> _StageFacts:
        blocks, attention, quarters, *further = counts
        if blocks == 0:
            # A stage without blocks lies beyond any data; the power law would make it infinitely
            # bad.
            return _StageFacts(100.0, 100.0, 0.0, (f"stage {index + 1} has no blocks",))
        expansion = quarters / STEPS_PER_EXPANSION / blocks
        size = blocks + self.law.coefficients["entry"] * self._entry_is_block(index)
        deficit = stage_deficits(
            self.law.coefficients,
            self._terms[index],
            width=width,
            blocks=size,
            attention=attention,
            expansion=expansion,
        )
        shares = [count / blocks for count in further]
        points = float(deficit) * math.exp(self._log_factor(shares))
        # What a second recipe's blocks gain may be its training's doing, so that mixing them in is
        # not to be relied on.
        mixed = 0.0
        if any(shares):
            unmixed = float(deficit) * math.exp(self._log_factor([0.0] * len(shares)))
            mixed = max(unmixed - points, 0.0)
        caution = 0.0
        reasons = []
        for (what, low, high), value in zip(
            self._ranges[index], (width, blocks, expansion), strict=False
        ):
            if low * (1 - _ROUNDING) <= value <= high * (1 + _ROUNDING):
                continue
            beyond = _octaves(value, low, high)
            reasons.append(
                f"stage {index + 1}: {what} {value:.3g}, published have {_range(low, high)}"
            )
            caution += points * EXPONENT_ERROR * math.log(2) * beyond
        if self._published_stages[index]:
            attended = [seen[2] for seen in self._published_stages[index]]
            extra = max(min(attended) - attention, attention - max(attended), 0)
            if extra:
                known = _range(min(attended), max(attended))
                reasons.append(
                    f"stage {index + 1}: {attention} attention blocks, published have {known}"
                )
                caution += ATTENTION_POINTS * extra
        return _StageFacts(points, caution, mixed, tuple(reasons))

    def _entry_points(self, index: int, entry: BlockSpec, before: int, width: int) -> float:
        """Return what an entry with a smaller hidden width than the largest candidate's costs.

        The entry counts as its part of a block of the stage, with the law's exponent of expansion.
        No published row varies it alone.
        """
        candidates = self.scored.stages[index].entries
        if len(candidates) < 2 or not entry.counts_as_block:
            return 0.0
        part = self.law.coefficients["entry"]
        depth = sum(self.scored.stages[index].depths) / 2
        size = depth + part
        deficit = stage_deficits(
            self.law.coefficients,
            replace(self._terms[index], without=0.0),
            width=width,
            blocks=size,
            attention=0,
            expansion=EXPANSION,
        )
        # Blocks of another recipe have other entries: only those of the same activation compare.
        alike = [c for c in candidates if _activation(c) == _activation(entry)]
        most = max(_expansion(candidate) for candidate in alike)
        lost: float = (_expansion(entry) / most) ** -self.law.coefficients["expansion"] - 1
        factor = math.exp(self._log_factor([0.0] * (len(self._activations) - 1)))
        points = float(deficit) * factor * part / size
        return points * lost

    def _ratio(self, index: int, before: int, width: int) -> tuple[str, float]:
        """Return the reason and the points of caution of a jump in width from the stage before."""
        if index == 0:
            return "", 0.0
        known = [
            after[0] / first[0]
            for first, after in zip(
                self._published_stages[index - 1], self._published_stages[index], strict=True
            )
        ]
        low = min([WIDTH_RATIOS[0], *known])
        high = max([WIDTH_RATIOS[1], *known])
        beyond = _octaves(width / before, low, high)
        if beyond < 0.01:
            return "", 0.0
        reason = (
            f"stage {index + 1} is {width / before:.2g} times as wide as stage {index}, not"
            f" {low:.2g} to {high:.2g}"
        )
        return reason, RATIO_POINTS * beyond

    def _unknown(self, block: BlockSpec, candidates: Sequence[BlockSpec], shape: Any) -> float:
        """Return the points of caution of a stem or head with fewer parameters than the largest
        candidate's."""
        if len(candidates) < 2 or block.kind not in {candidate.kind for candidate in candidates}:
            return 0.0
        shape = shape or self._last
        most = max(candidate.params(shape) for candidate in candidates)
        return UNKNOWN_POINTS * math.log2(most / max(block.params(shape), 1))

    # What the law says of a whole member

    def _outside(self, arch: Architecture) -> tuple[tuple[str, ...], float]:
        """Return why a member lies outside of the data, and the points that may be lost there."""
        reasons = []
        caution = 0.0
        before = self._channels_into(arch)
        for index, stage in enumerate(arch.stages):
            facts = self._facts(index, stage)
            reason, points = self._ratio(index, before[index], stage.width)
            reasons += [*facts.reasons, *([reason] if reason else [])]
            caution += facts.caution + points
        mixed = sum(self._facts(index, stage).mixed for index, stage in enumerate(arch.stages))
        if len({self._activation_of(stage) for stage in arch.stages}) > 1:
            reasons.append("blocks of two published recipes in one network")
            caution += mixed
        else:
            # Few networks were published by a second recipe: its gain elsewhere is known to a half.
            caution += mixed / 2
        beyond = _octaves(self._side, *SIDES)
        if beyond > 0.01:
            reasons.append(
                f"input of {self._side:g} pixels, the data have {SIDES[0]:g} to {SIDES[1]:g}"
            )
            caution += SIDE_SHARE * beyond * sum(self._points(arch))
        if not self._recipe.name and self.training is None:
            reasons.append("no published recipe for this space, so that the level is unknown")
        return tuple(reasons), caution

    def _activation_of(self, stage: Stage) -> frozenset[str]:
        """Return the activations of a stage's blocks that tell its recipe; one where a space has a
        single recipe."""
        if len(self._activations) == 1:
            return frozenset()
        return frozenset(_activation(block) for block in stage.present)

    def _points(self, arch: Architecture) -> list[float]:
        return [self._facts(index, stage).points for index, stage in enumerate(arch.stages)]

    def _variance(self, arch: Architecture) -> float:
        """Return the variance of the expected accuracy: of the coefficients, of the recipe, and of
        the form."""
        recipe = self.training or self._recipe
        lacking = sum(self._points(arch))
        gradient = self.gradient(arch)
        if recipe.floor_name in self.law.names:
            gradient[self.law.names.index(recipe.floor_name)] -= 1.0
        variance = float(gradient @ self.law.covariance @ gradient)
        if recipe.factor_name not in self.law.names:
            variance += (self.law.factor_error * lacking) ** 2
        if recipe.floor_name not in self.law.names:
            variance += self.law.floor_error**2
        return variance + (self.law.model_share * lacking) ** 2 + self.law.model_points**2

    def gradient(self, arch: Architecture) -> Floats:
        """Return the derivatives of the expected accuracy by the coefficients (names,), but for the
        floor's."""
        known = self.unshifted or self
        slopes = [
            known._slope((index, stage.width, known._sums(index, stage)))
            for index, stage in enumerate(arch.stages)
        ]
        total: Floats = -np.sum(slopes, axis=0)
        return total

    def _slope(self, key: _Key) -> Floats:
        """Return the derivatives of a stage's points of error by the coefficients (names,)."""
        slope = self._slopes.get(key)
        if slope is None:
            pairs = [
                (lower._stage(*key).points, upper._stage(*key).points)
                for lower, upper in self._neighbours
            ]
            slope = self._slopes[key] = np.array(
                [(above - below) / (2 * _STEP) for below, above in pairs]
            )
        return slope

    @cached_property
    def _neighbours(self) -> list[tuple[LawScores, LawScores]]:
        """Return the scores with each coefficient slightly smaller and larger, kept so that stages
        are priced once."""
        shifts = _STEP * np.eye(len(self.law.values))
        return [
            (self.with_values(self.law.values - s), self.with_values(self.law.values + s))
            for s in shifts
        ]

    def _log_factor(self, shares: Sequence[float]) -> float:
        """Return ln F of a stage whose blocks have these shares of the further recipes."""
        own = self.law.coefficients.get((self.training or self._recipe).factor_name, 0.0)
        others = (
            self.law.coefficients.get(recipe.factor_name, own) for recipe in self._recipes[1:]
        )
        if self.training is not None:
            return self._shared_factor + own
        return (
            self._shared_factor
            + own
            + sum(s * (other - own) for s, other in zip(shares, others, strict=True))
        )

    @cached_property
    def _shared_factor(self) -> float:
        recipe = self.training or self._recipe
        mixer = self.scored.stages[0].local[0].mixer
        effects = (
            self._side,
            float(recipe.distilled),
            recipe.epochs,
            float(mixer == "pool"),
            float(mixer == "none"),
        )
        return float(log_factor(self.law.coefficients, *effects))

    @cached_property
    def _level(self) -> float:
        """Return the expected accuracy of the largest member."""
        floor = self.law.coefficients.get(
            (self.training or self._recipe).floor_name, self.law.floor
        )
        return self.scale * (100.0 - floor) - self._constant

    @cached_property
    def _constant(self) -> float:
        """Return what the parts of the largest member add up to, but for this constant."""
        arch = self.scored.largest()
        before = self._channels_into(arch)
        parts = (
            self.entry_cost(index, stage.entry, before[index])
            + self._cost_of(self._facts(index, stage))
            for index, stage in enumerate(arch.stages)
        )
        stem = self.stem_cost(arch.stem) if arch.stem is not None else 0.0
        return (
            sum(parts)
            + stem
            + self.scale * self.caution * self._unknown(arch.head, self.scored.heads, None)
        )

    # The space

    @cached_property
    def _recipes(self) -> tuple[Recipe, ...]:
        """Return the recipe of each of the space's activations, the usual one first; a nameless one
        where none is known."""
        known = []
        for name in self.scored.recipes.values():
            if name not in self.law.recipes:
                raise InputError(
                    f"{self.scored.path or self.space}: recipe: unknown recipe '{name}'"
                    f"{nearest(name, self.law.recipes)}"
                )
            known.append(self.law.recipes[name])
        return tuple(known) or (Recipe("", ""),)

    @property
    def _recipe(self) -> Recipe:
        return self._recipes[0]

    @cached_property
    def _activations(self) -> tuple[str, ...]:
        return tuple(self.scored.recipes) or ("",)

    @cached_property
    def _side(self) -> float:
        return math.sqrt(self.scored.resolution[0] * self.scored.resolution[1])

    @cached_property
    def _terms(self) -> list[MapTerms]:
        """Return what the map size of each stage decides."""
        shapes = (self.scored.shape(index, 1) for index in range(len(self.scored.stages)))
        return [
            map_terms(self.law.coefficients, math.sqrt(shape.height * shape.width))
            for shape in shapes
        ]

    @cached_property
    def _ranges(self) -> list[list[tuple[str, float, float]]]:
        """Of each stage, the least and the most of each figure that published members have."""
        names = (("width", 0), ("depth", 1), ("mean expansion", 3))
        return [
            (
                [(name, min(s[at] for s in seen), max(s[at] for s in seen)) for name, at in names]
                if seen
                else []
            )
            for seen in self._published_stages
        ]

    @cached_property
    def _image(self) -> Any:
        return self.scored.largest().operations()[0].input

    @cached_property
    def _last(self) -> Any:
        return self.scored.largest().operations()[-1].input

    def _entry_is_block(self, index: int) -> bool:
        return self.scored.stages[index].entries[0].counts_as_block

    def _channels_into(self, arch: Architecture) -> list[int]:
        """Return the channels that enter each stage."""
        first = (
            arch.operations()[1].input.channels
            if arch.stem is not None
            else arch.operations()[0].input.channels
        )
        return [first, *(stage.width for stage in arch.stages[:-1])]

    @cached_property
    def _members(self) -> dict[str, Architecture]:
        """Return the published members whose accuracy is known at this input size."""
        sides = {name: figure.side for name, figure in self.law.published.items()}
        return {
            name: arch
            for name, arch in self.scored.published.items()
            if sides.get(name) == self._side and self.training is None
        }

    @cached_property
    def _member_names(self) -> dict[Any, str]:
        return {_identity(arch): name for name, arch in self._members.items()}

    def _published_member(self, arch: Architecture) -> str | None:
        """Return the name of the published member that `arch` is, whatever positions it dropped."""
        if arch.widths not in self._member_widths or not self._member_names:
            return None
        return self._member_names.get(_identity(arch))

    @cached_property
    def _member_widths(self) -> set[tuple[int, ...]]:
        return {arch.widths for arch in self._members.values()}

    @cached_property
    def _published_stages(self) -> list[list[tuple[float, float, float, float]]]:
        """Of each stage, (width, blocks, attention blocks, mean expansion) of the published
        members."""
        stages = []
        for index in range(len(self.scored.stages)):
            seen = []
            for arch in self.scored.published.values():
                stage = arch.stages[index]
                counted = [self.counts(index, block) for block in stage.blocks]
                blocks, attention, quarters, *_ = map(sum, zip(*counted, strict=True))
                expansion = quarters / STEPS_PER_EXPANSION / blocks
                seen.append((float(stage.width), float(blocks), float(attention), expansion))
            stages.append(seen)
        return stages

    @property
    def _where(self) -> str:
        return f"{self.path}: " if self.path else ""


def _identity(arch: Architecture) -> Any:
    """Return what makes two architectures one network, but for classes and positions that were
    dropped."""
    head = {name: value for name, value in arch.head.to_dict().items() if name != "classes"}
    stages = tuple((stage.entry, stage.present) for stage in arch.stages)
    return arch.resolution, arch.stem, str(head), stages


def _expansion(block: BlockSpec) -> float:
    """Return the hidden width of a block over its channels; 1 for a block without a hidden layer."""
    return float(getattr(block, "expansion", 1.0))


def _activation(block: BlockSpec) -> str:
    """Return a block's activation; an empty text for a block without one."""
    return str(getattr(block, "activation", ""))


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _octaves(value: float, low: float, high: float) -> float:
    """Return how many factors of two `value` lies outside of low to high."""
    return max(math.log2(low / value), math.log2(value / high), 0.0)
