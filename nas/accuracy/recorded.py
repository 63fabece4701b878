"""Recorded scores: the cost of each single move in accuracy, as measured on a trained supernet.

`nas train` and `nas score` make them; `nas.accuracy.recorded_file` reads and writes them.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.accuracy.exchanges import ExchangeCosts
from nas.accuracy.scores import Accuracy, Scores
from nas.accuracy.single_moves import Key, MeasuredWith, Score, choice_text, wanted_keys
from nas.blocks import BlockSpec, EntrySpec, HeadSpec, Identity
from nas.display import frame, shortened
from nas.errors import InputError, check_type
from nas.files import text_sha256
from nas.space import Architecture, Space, Stage
from nas.space.place import HEAD, STEM, Place

if TYPE_CHECKING:
    import pandas as pd


class RowsByKey(dict[Key, Score]):
    """Scored moves by key. A key without a row raises InputError, which names the scores' file.

    Args:
        rows: by key.
        where: the beginning of error messages: the file, or nothing.
    """

    def __init__(self, rows: Mapping[Key, Score], where: str) -> None:
        super().__init__(rows)
        self._where = where

    def __missing__(self, key: Key) -> Score:
        move, place, choice = key
        raise InputError(
            f"{self._where}no row for move '{move}', {place}{f', {choice}' if choice else ''}"
        )


@dataclass(frozen=True)
class RecordedScores(Scores):
    """Recorded costs of single moves, whose sum is the expected accuracy drop of a member.

    cost(arch) is the sum over its dropped positions, its localised positions, its narrowed stages
    and its exchanged blocks. A dropped position counts as dropped only, whatever block it had.
    Widths between two measured ones are interpolated linearly. The largest width costs 0, and so
    does the largest member's candidate of a place. At a width that this candidate does not fit, the
    most similar one costs 0.

    Attributes:
        scored: the space that the moves were measured on, at its resolution and number of classes.
        rows: the measured moves.
        notes: the origin of the scores, in words.
        baseline_accuracy: accuracy of the largest member, in percent of `metric`.
        images: number of held-out images that the accuracies were measured on.
        supernet: name of the supernet's folder.
        path: file that the scores were read from; empty where there is none.
        metric: "top1" or "miou".
        data: the data set, in words.
        measured_with: weights, images and settings; None in older files and in scores that are not
            from a supernet.
    """

    scored: Space
    rows: tuple[Score, ...]
    notes: tuple[str, ...] = ()
    baseline_accuracy: float | None = None
    images: int | None = None
    supernet: str | None = None
    path: str = ""
    metric: str = "top1"
    data: str | None = None
    measured_with: MeasuredWith | None = None
    _known: dict[tuple[int, Stage], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def cost(self, arch: Architecture) -> float:
        """Return the expected accuracy drop of `arch` below `space.largest()`, in points of top-1.

        Lower is better. An architecture without dropped positions is placed as `Space.place` does:
        local blocks first, global ones last.

        Raises:
            InputError: `arch` is not a member of the scored space, or a row that it needs is
                missing.
        """
        check_type("arch", arch, Architecture, "nas.load_architecture")
        if len(arch.stages) != len(self.scored.stages):
            raise InputError(
                f"{self._where}{len(self.scored.stages)} stages were scored, the architecture has"
                f" {len(arch.stages)}"
            )
        total = sum(self._stage_cost(index, stage) for index, stage in enumerate(arch.stages))
        return (
            total
            + (self.stem_cost(arch.stem) if arch.stem is not None else 0.0)
            + self.head_cost(arch.head)
        )

    def stem_cost(self, stem: EntrySpec) -> float:
        """Return what this stem adds to `cost`."""
        return self._exchange_cost(STEM, stem) if len(self.scored.stems) > 1 else 0.0

    def head_cost(self, head: HeadSpec) -> float:
        """Return what this head adds to `cost`; 0 for a head of another task."""
        if len(self.scored.heads) < 2:
            return 0.0
        head = replace(head, classes=self.scored.classes)
        return self._exchange_cost(HEAD, head) if head in self.scored.heads else 0.0

    def entry_cost(self, index: int, entry: EntrySpec, before: int = 0) -> float:
        """Return what the block that enters a stage adds to `cost`, with the stage's width.

        Args:
            index: of the stage, counted from 0.
            entry: the block, with the width that it gives the stage.
            before: number of its input channels, which does not matter here.
        """
        stage = self.scored.stages[index]
        cost = self._width_cost(index, entry.width)
        if len(stage.entries) > 1:
            place = Place.entry(index, bool(self.scored.stems))
            cost += self._exchange_cost(place, replace(entry, width=stage.widths[-1]))
        return cost

    def block_cost(self, index: int, position: int, block: BlockSpec, width: int) -> float:
        """Return what a block or identity adds to `cost`.

        Args:
            index: of the stage, counted from 0.
            position: in the stage, counted from 0.
            block: the block or identity.
            width: of the stage, in channels.
        """
        space = self.scored.stages[index]
        place = str(Place.block(index, position))
        try:
            role = space.kind(block)
        except ValueError as error:
            raise InputError(f"{self._where}{place}: {error}") from None
        # A dropped position costs its drop alone: no exchange or localisation before it adds to
        # that.
        if role == "identity":
            return self._by_key["drop", place, ""].cost
        localised = role == "local" and space.global_
        cost = self._by_key["localise", place, ""].cost if localised else 0.0
        if len(space.candidates(role)) > 1:
            cost += self._exchanges.cost(index, position, role, block, width)
        return cost

    def importance(self, stage: int, position: int) -> float:
        """Return the importance of the MetaPath at a position: its alphas over that of identity.

        This is the measure of EfficientFormer (arXiv:2206.01191, Sec. 4.2).

        Args:
            stage: counted from 0.
            position: in the stage, counted from 0.

        Raises:
            InputError: the scores have no importance, because no trained supernet made them.
        """
        row = self._by_key["drop", str(Place.block(stage, position)), ""]
        if row.importance is None:
            raise InputError(f"{self._where}drop of {row.place} has no importance")
        return row.importance

    def check(self, space: Space) -> None:
        """Raise InputError unless the scores are of `space` and have a cost for each scored move.

        `space` may have further choices (`covered`). The input size, the number of classes, and a
        head for another task may differ.
        """
        if space.name != self.space:
            raise InputError(
                f"{self._where}scores of space '{self.space}', not of '{space.name}'."
                f" {REMEDY.format(space.name)}"
            )
        if self.scored.stems != space.stems:
            raise InputError(
                f"{self._where}scores of another space '{self.space}': its stems differ from those"
                f" in {space.path or space.name}"
            )
        for index, (mine, theirs) in enumerate(
            zip(self.scored.stages, space.stages, strict=False), start=1
        ):
            for name in mine.beyond(theirs):
                raise InputError(
                    f"{self._where}scores of another space '{self.space}': stage {index} has "
                    f"{name.rstrip('_')} {_plain(getattr(mine, name))} there and "
                    f"{_plain(getattr(theirs, name))} in {space.path or space.name}"
                )
        if space.heads[0].layout != "pyramid":  # a classifier, which has no other metric
            self.check_evidence(metric="top1")
        for key in wanted_keys(self.scored):
            self._by_key[key]  # raises for a missing row

    def covered(self, space: Space) -> Space:
        # A file of an older version may lack choices that its space has got since.
        return space.restricted(self.scored.stages)

    def check_evidence(
        self, *, metric: str = "top1", data: str | None = None, named: str = ""
    ) -> None:
        """Raise InputError unless the scores are of this metric and data set.

        Args:
            metric: the expected metric.
            data: fingerprint of the training images, as `MeasuredWith.data`; None to accept any.
                Scores that do not state theirs are accepted.
            named: the expected data set in words, for the message.
        """
        if self.metric != metric:
            raise InputError(
                f"{self._where}metric: scores of metric '{self.metric}', expected '{metric}'"
            )
        if data is not None and self.measured_with is not None and self.measured_with.data != data:
            raise InputError(
                f"{self._where}data: scores of other images"
                f" ({self.data or 'a data set without a name'}), expected"
                f" {named or 'those of the evaluations'}. {REMEDY.format(self.space)}"
            )

    def __repr__(self) -> str:
        return (
            f"RecordedScores({self.space}, {len(self.rows)} moves,"
            f" {shortened(self.path) or 'in memory'})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return the measured moves as a DataFrame, with the columns of `scores.csv`."""
        return frame(self._rows(), [each.name for each in fields(Score)])

    def _rows(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    @property
    def fingerprint(self) -> str:
        """Return a short checksum that differs where the rows' costs differ."""
        text = json.dumps([[*row.key, row.cost] for row in self.rows])
        return text_sha256(text)[:16]

    @property
    def absolute(self) -> bool:
        """Return whether the accuracy of the largest member was recorded."""
        return self.baseline_accuracy is not None

    def accuracy(self, arch: Architecture) -> Accuracy:
        """Return the expected accuracy of the sliced supernet.

        It is the largest member's accuracy minus `cost(arch)`. The standard error is that of the
        moves in the sum. It does not contain the deviation of moves from a sum.
        """
        check_type("arch", arch, Architecture, "nas.load_architecture")
        if self.baseline_accuracy is None:
            raise InputError(
                f"{self._where}baseline_accuracy is missing, so that only costs are known, not"
                " accuracies"
            )
        value = self.baseline_accuracy - self.cost(arch)
        return Accuracy(value, self.standard_error(arch), self.metric, self.provenance)

    def save(self, folder: str | Path) -> None:
        """Write `scores.csv` and `scores.yaml`, which `load_scores` reads."""
        from nas.accuracy.recorded_file import write_scores

        write_scores(self, Path(folder))

    def standard_error(self, arch: Architecture) -> float:
        """Return the standard error of the accuracy of `arch`, in points.

        It is the root of the sum of the squared standard errors of its moves.
        """
        # A unit's cost is how often its row counts in the member's sum, so the row's variance
        # counts with the square of that.
        ends = sum(
            variance
            * (unit.head_cost(arch.head) + (unit.stem_cost(arch.stem) if arch.stem else 0.0)) ** 2
            for end in (STEM, HEAD)
            for variance, unit in self._units.get(end, ())
        )
        return sqrt(ends + sum(self._stage_variance(*each) for each in enumerate(arch.stages)))

    def _stage_variance(self, index: int, stage: Stage) -> float:
        """Return one stage's part of the variance, in squared points.

        The parts add up, because every row belongs to one stage, the stem or the head.
        """
        variance = self._variances.get((index, stage))
        if variance is None:
            # In a space without stems, the entry of stage 1 is at the place "stem".
            streams = [
                Place.whole(index),
                *([STEM] if index == 0 and not self.scored.stems else []),
            ]
            units = [pair for stream in streams for pair in self._units.get(stream, ())]
            variance = sum(each * unit._stage_cost(index, stage) ** 2 for each, unit in units)
            self._variances[index, stage] = variance
        return variance

    @cached_property
    def _units(self) -> dict[Place, list[tuple[float, RecordedScores]]]:
        """Return by stage, stem or head the variance of each row and its `_only`.

        Rows without a standard error are left out.
        """
        units: dict[Place, list[tuple[float, RecordedScores]]] = {}
        for row in self.rows:
            if row.standard_error:
                stream = Place.parse(row.place).stream
                units.setdefault(stream, []).append((row.standard_error**2, self._only(row)))
        return units

    @cached_property
    def _variances(self) -> dict[tuple[int, Stage], float]:
        """Return the cache of `_stage_variance`."""
        return {}

    def _only(self, row: Score) -> RecordedScores:
        """Return scores in which this row costs 1 and all others 0.

        The cost of a member by these is how often the row counts in the member's sum.
        """
        return replace(
            self, rows=tuple(replace(each, cost=float(each is row)) for each in self.rows)
        )

    @cached_property
    def _by_key(self) -> RowsByKey:
        return RowsByKey({row.key: row for row in self.rows}, self._where)

    @cached_property
    def _exchanges(self) -> ExchangeCosts:
        return ExchangeCosts(self.scored, self._by_key)

    @cached_property
    def _widths(self) -> tuple[tuple[list[int], list[float]], ...]:
        """Return for every stage the measured widths, ascending, and their costs.

        The largest width costs 0.
        """
        measured = []
        for index, stage in enumerate(self.scored.stages):
            narrowed = ("narrow", str(Place.whole(index)))
            points = {
                int(row.choice): row.cost for row in self.rows if (row.move, row.place) == narrowed
            }
            pairs = sorted({**points, stage.widths[-1]: 0.0}.items())
            measured.append(([width for width, _ in pairs], [cost for _, cost in pairs]))
        return tuple(measured)

    @property
    def _where(self) -> str:
        return f"{self.path}: " if self.path else ""

    def _stage_cost(self, index: int, stage: Stage) -> float:
        cost = self._known.get((index, stage))
        if cost is None:
            blocks = enumerate(self._placed(index, stage.blocks))
            cost = self.entry_cost(index, stage.entry)
            cost += sum(
                self.block_cost(index, position, block, stage.width) for position, block in blocks
            )
            self._known[index, stage] = cost
        return cost

    def _width_cost(self, index: int, width: int) -> float:
        widths, costs = self._widths[index]
        if width not in self.scored.stages[index].widths:
            raise InputError(
                f"{self._where}stage {index + 1}: width {width} is not one of the scored space's"
                " widths"
            )
        # The stage's largest width is always among the measured ones (`_widths`), so `at` is
        # within.
        at = bisect_left(widths, width)
        if widths[at] == width:
            return costs[at]
        # Below the smallest measured width nothing can be interpolated: this names the missing row.
        if at == 0:
            self._by_key["narrow", str(Place.whole(index)), str(width)]
        share = (width - widths[at - 1]) / (widths[at] - widths[at - 1])
        return costs[at - 1] + share * (costs[at] - costs[at - 1])

    def _exchange_cost(self, place: Place, block: BlockSpec) -> float:
        """Return the cost of a stem, of an entry at its stage's largest width, or of a head."""
        if block == self.scored.largest().block(place):
            return 0.0
        return self._by_key["exchange", str(place), choice_text(block)].cost

    def _placed(self, index: int, blocks: tuple[BlockSpec, ...]) -> tuple[BlockSpec, ...]:
        scored = self.scored.stages[index]
        # As `Space.place`, for one stage.
        gap = scored.depths[1] - len(blocks)
        if gap < 0:
            raise InputError(
                f"{self._where}stage {index + 1}: has too many positions (got {len(blocks)}, the"
                f" scored space has {scored.depths[1]})"
            )
        first = next((i for i, block in enumerate(blocks) if block in scored.global_), len(blocks))
        return (*blocks[:first], *(Identity(),) * gap, *blocks[first:])


REMEDY = "Fix: nas train --space {} --data DATA --out FOLDER, then nas search --supernet FOLDER"
"""Remedy where scores do not fit a search, with the space's name to fill in."""


def _plain(values: tuple[object, ...]) -> str:
    texts = [choice_text(value) if isinstance(value, BlockSpec) else str(value) for value in values]
    return f"({', '.join(texts)})"
