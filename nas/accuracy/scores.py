"""`Scores`, the abstract base of all scores, and `Accuracy`.

Engines minimise `Scores.cost`. The subclasses are `nas.accuracy.law_scores.LawScores`,
`nas.accuracy.recorded.RecordedScores` and `nas.accuracy.posterior_scores.PosteriorScores`.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.blocks import BlockSpec, EntrySpec, HeadSpec
from nas.display import frame, html_table, shortened
from nas.files import text_sha256
from nas.space import Architecture, Space

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Accuracy:
    """The expected accuracy of one member.

    Attributes:
        value: in percent of `metric`. For a published member at its published size it is the
            published number.
        standard_error: of `value`, in points. It contains the uncertainty of the coefficients, the
            error of the model, and the distance from the data.
        metric: "top1" or "miou".
        source: where the figure comes from, in words.
        reasons: why the member is outside of the data; empty where it is inside.
        predicted: for a published member, the prediction without it and its variants, in percent.
        predicted_error: standard error of `predicted`, in points.
    """

    value: float
    standard_error: float
    metric: str
    source: str
    reasons: tuple[str, ...] = ()
    predicted: float | None = None
    predicted_error: float | None = None

    def __repr__(self) -> str:
        outside = ", extrapolated" if self.extrapolated else ""
        figure = f"{self.value:.2f} ± {self.standard_error:.2f} % {self.metric}"
        return f"Accuracy({figure}{outside}, {shortened(self.source, 200)})"

    @property
    def top1(self) -> float:
        """Return `value`; the name is that of the metric of most scores."""
        return self.value

    @property
    def extrapolated(self) -> bool:
        """Return whether the member is outside of the data."""
        return bool(self.reasons)

    @property
    def published(self) -> bool:
        """Return whether `value` is a published number rather than a prediction."""
        return self.predicted is not None


class Scores(abc.ABC):
    """The abstract base of scores: expected accuracies and costs of a space's members.

    A search minimises `cost`, the points below the largest member. The exact engine needs its
    parts, which add up over the network:

        cost(arch) = stem_cost + head_cost
                     + sum over stages (entry_cost + stage_cost + sum over positions block_cost)

    for every member except those of `exceptions`. `stage_cost` may be any function of the sums of
    `counts` over the stage's blocks. So a cost can depend on how many blocks (or attention blocks)
    a stage has, wherever they are.

    Attributes:
        scored: the space, at the resolution and with the classes of the scores.
        notes: where they come from, one fact each.
        path: the file that they were read from, or empty.
        metric: of `accuracy`.
    """

    scored: Space
    notes: tuple[str, ...]
    path: str
    metric: str = "top1"

    @property
    def space(self) -> str:
        """Return the name of the scored space."""
        return self.scored.name

    @property
    def provenance(self) -> str:
        """Return where the scores come from, in words."""
        return "; ".join(self.notes) or "unknown"

    def __repr__(self) -> str:
        size = f"{self.scored.resolution[0]}x{self.scored.resolution[1]}"
        return f"{type(self).__name__}({self.space} at {size}, {shortened(self.provenance, 200)})"

    def to_frame(self) -> pd.DataFrame:
        """Return the largest, the smallest and the published members with their scores.

        There is one row per member. `accuracy` is in percent and `standard_error` in points; they
        are NaN where only costs are known.
        """
        return frame(
            self._rows(), ("name", "cost", "accuracy", "standard_error", "metric", "extrapolated")
        )

    def _rows(self) -> list[dict[str, Any]]:
        """Return the rows of `to_frame`."""
        members = {
            "largest": self.scored.largest(),
            "smallest": self.scored.smallest(),
            **self.scored.published,
        }
        rows = []
        for name, arch in members.items():
            row: dict[str, Any] = {"name": name, "cost": self.cost(arch)}
            if self.absolute:
                accuracy = self.accuracy(arch)
                row["accuracy"] = accuracy.value
                row["standard_error"] = accuracy.standard_error
                row["metric"] = accuracy.metric
                row["extrapolated"] = accuracy.extrapolated
            rows.append(row)
        return rows

    def _repr_html_(self) -> str:
        return html_table(repr(self), self._rows())

    @abc.abstractmethod
    def cost(self, arch: Architecture) -> float:
        """Return how far `arch` is expected to be below `scored.largest()`, in points.

        Raises:
            InputError: `arch` is not a member of the scored space.
        """

    @abc.abstractmethod
    def accuracy(self, arch: Architecture) -> Accuracy:
        """Return the expected accuracy of `arch`.

        accuracy(largest).value - accuracy(arch).value equals cost(arch).

        Raises:
            InputError: `arch` is not a member of the scored space, or the scores know only costs.
        """

    @abc.abstractmethod
    def check(self, space: Space) -> None:
        """Raise InputError, with what differs, unless these scores are of `space`.

        The input size and the number of classes may differ, and a head may be for another task.
        """

    def covered(self, space: Space) -> Space:
        """Return the part of `space` whose choices these scores know, after `check`.

        A search keeps to it: a choice that was never scored may not count as free.
        """
        return space

    @abc.abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write the scores into `folder`, where `load_scores` finds them."""

    @property
    def fingerprint(self) -> str:
        """Return a short checksum that differs where costs differ.

        A study that is resumed compares it, so that all its trials are by the same scores. The
        default is made of the costs of some members.
        """
        # Fixed seeds, so that equal scores are asked about the same members. Nine digits are the
        # same on every processor, the last ones of a float are not.
        members = [
            self.scored.largest(),
            self.scored.smallest(),
            *(self.scored.sample(seed) for seed in range(16)),
        ]
        costs = [f"{self.cost(arch):.9g}" for arch in (*members, *self.scored.published.values())]
        text = json.dumps([type(self).__name__, self.scored.to_dict(), costs], sort_keys=True)
        return text_sha256(text)[:16]

    @property
    def absolute(self) -> bool:
        """Return whether `accuracy` has a meaningful level; otherwise only costs are reported."""
        return True

    @property
    def knows_sizes(self) -> bool:
        """Return whether accuracies at several input sizes can be compared (`at`)."""
        return False

    def at(self, space: Space) -> Scores:
        """Return the scores for `space`, which is the scored one at another input size.

        Measured scores are returned as they are.
        """
        return self

    def cautious(self) -> Scores:
        """Return scores whose cost includes what might be lost outside of the data.

        A search minimises this cost. One that maximised the expected accuracy alone would be drawn
        to members whose accuracy the scores overestimate.
        """
        return self

    def difference_error(self, arch: Architecture, other: Architecture) -> float:
        """Return the standard error of cost(arch) - cost(other), in points; 0 if it is unknown."""
        return 0.0

    def exceptions(self) -> Sequence[Architecture]:
        """Return the members whose cost is not the sum of its parts, such as published ones."""
        return ()

    def stem_cost(self, stem: EntrySpec) -> float:
        """Return what this stem adds to `cost`."""
        return 0.0

    def head_cost(self, head: HeadSpec) -> float:
        """Return what this head adds to `cost`; 0 for a head of another task."""
        return 0.0

    def entry_cost(self, index: int, entry: EntrySpec, before: int) -> float:
        """Return what the block that enters a stage adds to `cost`.

        Args:
            index: of the stage, counted from 0.
            entry: the block, with the width that it gives the stage.
            before: number of its input channels.
        """
        return 0.0

    def block_cost(self, index: int, position: int, block: BlockSpec, width: int) -> float:
        """Return what a block or identity adds to `cost`.

        Args:
            index: of the stage, counted from 0.
            position: in the stage, counted from 0.
            block: the block or identity.
            width: of the stage, in channels.
        """
        return 0.0

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        """Return what a block or identity of a stage adds to the sums that `stage_cost` takes."""
        return ()

    def stage_cost(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        """Return what a whole stage adds to `cost`.

        Args:
            index: of the stage, counted from 0.
            width: of the stage, in channels.
            counts: sums of `counts` over its positions.
        """
        return 0.0

    def stage_costs(
        self, index: int, widths: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return `stage_cost` of many stages at once, (stages,).

        Args:
            index: of the stages, counted from 0.
            widths: (stages,), in channels.
            counts: (counts, stages), sums of `counts`.
        """
        # Many stages share a width and sums, so each distinct column is priced once.
        table, inverse = np.unique(np.vstack([widths, counts]), axis=1, return_inverse=True)
        costs = [self.stage_cost(index, width, tuple(sums)) for width, *sums in table.T.tolist()]
        return np.array(costs)[inverse.ravel()]
