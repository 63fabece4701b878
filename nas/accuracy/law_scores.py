"""The accuracy law as the scores of a space, which exist before anything is trained.

`nas.accuracy.default_scores` makes them. `nas.accuracy.law_stages` has the costs of single stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nas.accuracy.law import Floats, Ints, Law, Recipe
from nas.accuracy.law_ranges import octaves
from nas.accuracy.law_stages import StageFacts, StageLaw
from nas.accuracy.scores import Accuracy, Scores
from nas.blocks import BlockSpec, EntrySpec, HeadSpec
from nas.errors import InputError, check_type
from nas.space import Architecture, Space

SIDES = (128.0, 384.0)
"""Smallest and largest input side of the fitted rows, in pixels."""
SIDE_SHARE = 0.3
"""Caution per octave that the input lies outside of `SIDES`, as a share of the shortfall."""
UNKNOWN_POINTS = 0.1
"""Caution per halving of the parameters of a stem or a head, in points.

No published row shows their effect on accuracy."""
DIFFERENCE_SHARE = 0.1
"""Model error of a difference between two members, as a share of the difference of their stages."""


@dataclass(frozen=True)
class LawScores(Scores):
    """Expected ImageNet top-1 of the members of a space, by the accuracy law.

    Args:
        scored: the space, at the input size of the prediction. Its number of classes and task do
            not matter: the figure is the top-1 that the network would have on ImageNet.
        law: the fitted coefficients.
        training: the recipe; by default that of the space (`Space.recipes`), or an unknown one, of
            which only the spread is known.
        caution: the share of the points that may be lost outside of the data which `cost` contains;
            0 for the expected cost, 1 for the cautious one.
        scale: points of the metric per point of the law.
        path: file that the scores were read from; empty where there is none.
        metric: "top1" or "miou".
        unshifted: the scores without `shift`.
        shift: correction of the coefficients by evidence, (names,) (`nas.accuracy.posterior`). It
            changes costs to first order.
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

    def __repr__(self) -> str:
        height, width = self.scored.resolution
        recipe = (self.training or self.stages.recipe).name or "no recipe"
        return (
            f"LawScores({self.space} at {height}x{width}, {recipe}, law of"
            f" {self.law.date or 'no date'})"
        )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the data and the recipe that the figures rest on."""
        recipe = self.training or self.stages.recipe
        trained = (
            f"trained as {recipe.name}'s authors did"
            if recipe.name
            else "without a published recipe"
        )
        return (f"accuracy law fitted to {self.law.rows} published ImageNet results", trained)

    @property
    def fingerprint(self) -> str:
        """Return a text that identifies these scores on every machine."""
        values = ",".join(f"{value:.6g}" for value in self.law.values)
        shift = "" if self.shift is None else ",".join(f"{value:.6g}" for value in self.shift)
        return (
            f"law {self.law.date} {values} {shift} {self.scale:g} {self.caution:g} {self.training}"
        )

    @property
    def absolute(self) -> bool:
        """Return whether a level is known.

        It is not known without a recipe, or more than an octave outside of the data's input sizes.
        """
        known = self.stages.recipe.name or self.training is not None
        return bool(known) and octaves(self.stages.side, *SIDES) <= 1

    @property
    def knows_sizes(self) -> bool:
        """Return True: the law has a coefficient for the input size."""
        return True

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
        """Return the scores with shifted coefficients, to first order.

        To first order, costs stay linear in the shift, so that a linear model corrects them.

        Args:
            shift: of the coefficients, in the order of `law.names`.
        """
        # A second shift replaces the first one. Both are from the same law, at which the
        # derivatives are taken.
        return replace(self, unshifted=self.unshifted or self, shift=shift)

    def check(self, space: Space) -> None:
        if space.name != self.space:
            raise InputError(
                f"{self._where}scores of space '{self.space}', not of '{space.name}'. "
                f"Fix: leave out --scores; the accuracy law covers '{space.name}' too"
            )

    def save(self, folder: str | Path) -> None:
        from nas.accuracy.posterior_file import write_law_scores

        write_law_scores(self, Path(folder))

    def cost(self, arch: Architecture) -> float:
        check_type("arch", arch, Architecture, "nas.load_architecture")
        # What is known is not predicted: a published member costs what its published number lies
        # below the level. That makes it an exception to the sum of parts.
        known = self._published_member(arch)
        if known is not None:
            return self._level - self.law.published[known].top1 * self.scale
        return self.parts_cost(arch)

    def parts_cost(self, arch: Architecture) -> float:
        """Return the sum of the parts of `cost`, for a published member the law's own cost."""
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
                self.stages.facts(index, stage)
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
        """Return why a member lies outside of the data; empty where it lies inside."""
        return self._outside(arch)[0]

    def difference_error(self, arch: Architecture, other: Architecture) -> float:
        # Both members share floor and recipe, so only the coefficients and the form of the law add
        # to the error of a difference.
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
        """Return the cost of a head.

        It is the constant that makes the largest member cost 0, plus the caution of a smaller head.
        """
        # Every member has exactly one head, so the constant of the whole network stands in its
        # cost.
        return -self._constant + self.scale * self.caution * self._unknown(
            head, self.scored.heads, None
        )

    def entry_cost(self, index: int, entry: EntrySpec, before: int) -> float:
        width = entry.width
        points = self.stages.entry_points(index, entry, before, width)
        return self.scale * (points + self.caution * self.stages.jump(index, before, width)[1])

    def stage_cost(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        points, caution, mixed = self.stages.numbers(index, width, counts)
        return self.scale * (points + self.caution * (caution + mixed))

    def stage_costs(self, index: int, widths: Ints, counts: Ints) -> Floats:
        points, caution, mixed = self.stages.figures(index, widths, counts)
        costs: Floats = self.scale * (points + self.caution * (caution + mixed))
        return costs

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        """Return what a block adds to the sums of its stage (`StageLaw.counts`)."""
        return self.stages.counts(index, block)

    @cached_property
    def stages(self) -> StageLaw:
        """Return the law of the space's single stages."""
        return StageLaw(
            self.scored,
            self.law,
            training=self.training,
            where=self._where,
            unshifted=self.unshifted.stages if self.unshifted is not None else None,
            shift=self.shift,
        )

    def _cost_of(self, facts: StageFacts) -> float:
        return self.scale * (facts.points + self.caution * (facts.caution + facts.mixed))

    def _unknown(self, block: BlockSpec, candidates: Sequence[BlockSpec], shape: Any) -> float:
        """Return the caution of a stem or head with fewer parameters than the largest candidate.

        Args:
            block: the stem or head.
            candidates: the stems or heads of the space.
            shape: of the input; None for that of the largest member's head.
        """
        # A head of another task is not a choice of the space, so nothing is compared.
        if len(candidates) < 2 or block.kind not in {candidate.kind for candidate in candidates}:
            return 0.0
        shape = shape or self._last
        most = max(candidate.params(shape) for candidate in candidates)
        return UNKNOWN_POINTS * math.log2(most / max(block.params(shape), 1))

    # Whole members

    def _outside(self, arch: Architecture) -> tuple[tuple[str, ...], float]:
        """Return why a member lies outside of the data, and the points that may be lost there."""
        reasons = []
        caution = 0.0
        before = self._channels_into(arch)
        for index, stage in enumerate(arch.stages):
            facts = self.stages.facts(index, stage)
            reason, points = self.stages.jump(index, before[index], stage.width)
            reasons += [*facts.reasons, *([reason] if reason else [])]
            caution += facts.caution + points
        mixed = sum(
            self.stages.facts(index, stage).mixed for index, stage in enumerate(arch.stages)
        )
        if len({self.stages.recipe_marks(stage) for stage in arch.stages}) > 1:
            reasons.append("blocks of two published recipes in one network")
            caution += mixed
        else:
            # Few networks were published with a second recipe, so half of its gain counts as
            # uncertain.
            caution += mixed / 2
        beyond = octaves(self.stages.side, *SIDES)
        if beyond > 0.01:
            reasons.append(
                f"input of {self.stages.side:g} pixels, the data have {SIDES[0]:g} to {SIDES[1]:g}"
            )
            caution += SIDE_SHARE * beyond * sum(self._points(arch))
        if not self.stages.recipe.name and self.training is None:
            reasons.append("no published recipe for this space, so that the level is unknown")
        return tuple(reasons), caution

    def _points(self, arch: Architecture) -> list[float]:
        return [self.stages.facts(index, stage).points for index, stage in enumerate(arch.stages)]

    def _variance(self, arch: Architecture) -> float:
        """Return the variance of the expected accuracy, in squared points.

        Its parts are those of the coefficients, of the recipe, and of the law's form.
        """
        recipe = self.training or self.stages.recipe
        lacking = sum(self._points(arch))
        gradient = self.gradient(arch)
        # Accuracy is 100 - floor - shortfall, so its derivative by the floor is -1.
        if recipe.floor_name in self.law.names:
            gradient[self.law.names.index(recipe.floor_name)] -= 1.0
        variance = float(gradient @ self.law.covariance @ gradient)
        # An unknown recipe or family adds the spread of the known ones. A change of ln F by
        # `factor_error` changes the shortfall by that share.
        if recipe.factor_name not in self.law.names:
            variance += (self.law.factor_error * lacking) ** 2
        if recipe.floor_name not in self.law.names:
            variance += self.law.floor_error**2
        return variance + (self.law.model_share * lacking) ** 2 + self.law.model_points**2

    def gradient(self, arch: Architecture) -> Floats:
        """Return the derivatives of the expected accuracy by the coefficients, (names,).

        That by the floor is left out.
        """
        stages = (self.unshifted or self).stages
        slopes = [
            stages.slope((index, stage.width, stages.sums(index, stage)))
            for index, stage in enumerate(arch.stages)
        ]
        total: Floats = -np.sum(slopes, axis=0)
        return total

    @cached_property
    def _level(self) -> float:
        """Return the expected accuracy of the largest member."""
        floor = self.law.coefficients.get(
            (self.training or self.stages.recipe).floor_name, self.law.floor
        )
        return self.scale * (100.0 - floor) - self._constant

    @cached_property
    def _constant(self) -> float:
        """Return the sum of the largest member's parts without this constant."""
        arch = self.scored.largest()
        before = self._channels_into(arch)
        parts = (
            self.entry_cost(index, stage.entry, before[index])
            + self._cost_of(self.stages.facts(index, stage))
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
    def _image(self) -> Any:
        return self.scored.largest().operations()[0].input

    @cached_property
    def _last(self) -> Any:
        return self.scored.largest().operations()[-1].input

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
        # A published number holds at the input size and with the recipe that it was published for.
        sides = {name: figure.side for name, figure in self.law.published.items()}
        return {
            name: arch
            for name, arch in self.scored.published.items()
            if sides.get(name) == self.stages.side and self.training is None
        }

    @cached_property
    def _member_names(self) -> dict[Any, str]:
        return {_identity(arch): name for name, arch in self._members.items()}

    def _published_member(self, arch: Architecture) -> str | None:
        """Return the name of the published member that `arch` is, whatever positions it dropped."""
        # A search asks this for thousands of members; widths are compared first because they are
        # cheap.
        if arch.widths not in self._member_widths or not self._member_names:
            return None
        return self._member_names.get(_identity(arch))

    @cached_property
    def _member_widths(self) -> set[tuple[int, ...]]:
        return {arch.widths for arch in self._members.values()}

    @property
    def _where(self) -> str:
        return f"{self.path}: " if self.path else ""


def _identity(arch: Architecture) -> Any:
    """Return a key that equal networks share, whatever their classes and dropped positions."""
    head = {name: value for name, value in arch.head.to_dict().items() if name != "classes"}
    stages = tuple((stage.entry, stage.present) for stage in arch.stages)
    return arch.resolution, arch.stem, str(head), stages
