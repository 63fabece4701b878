"""The accuracy law corrected by evidence, as the scores of a space.

`nas.accuracy.posterior` makes them; `nas.accuracy.posterior_file` writes and reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.accuracy.law import Floats, Ints
from nas.accuracy.law_scores import LawScores
from nas.accuracy.recorded import RecordedScores
from nas.accuracy.scores import Accuracy, Scores
from nas.blocks import BlockSpec, EntrySpec, HeadSpec
from nas.errors import check_type
from nas.space import Architecture, Space

if TYPE_CHECKING:
    from nas.accuracy.posterior import Posterior


@dataclass(frozen=True)
class PosteriorScores(Scores):
    """Scores in points of the user's metric: the corrected law plus corrections of single moves.

    Attributes:
        law: the law with the posterior's coefficients and scale.
        rows: the corrections beta of the single moves, as costs.
        level: accuracy of the largest member in percent, where it was measured.
        evidence_share: the share of the variance of random members that the evidence removed: 0
            where the scores are the law's, 1 where they are the measurements'.
        observed: number of measurements.
        source: source of the measurements, in words.
        noise: standard deviation of measurements about the sum of costs, in points.
        path: file that the scores were read from; empty where there is none.
        metric: "top1" or "miou".
        uncertainty: the model, for variances. It is None for scores read from a file, where the
            covariance of the law's coefficients and the standard errors of the rows replace it.
    """

    law: LawScores
    rows: RecordedScores
    level: float | None = None
    evidence_share: float = 0.0
    observed: int = 0
    source: str = ""
    noise: float = 0.0
    path: str = ""
    metric: str = "top1"
    uncertainty: Posterior | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        level = "no level" if self.level is None else f"largest member {self.level:.1f} %"
        return f"PosteriorScores({self.law!r}, {self.observed} measurements, {level})"

    @property
    def scored(self) -> Space:  # type: ignore[override]
        return self.law.scored

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        measured = f"{self.observed} measurements" + (f" by {self.source}" if self.source else "")
        share = f"{100 * self.evidence_share:.0f} % of the variance"
        # Without the law's second note, the authors' recipe: the measurements are of the user's
        # training.
        return (*self.law.notes[:1], f"corrected by {measured}, which explain {share}")

    @property
    def absolute(self) -> bool:
        return self.level is not None

    @property
    def fingerprint(self) -> str:
        """Return a text that identifies these scores on every machine."""
        return f"{self.law.fingerprint} {' '.join(f'{row.cost:.6g}' for row in self.rows.rows)}"

    def at(self, space: Space) -> PosteriorScores:
        """Return the scores for `space` at the input size of the measurements.

        The published members are those of `space`.
        """
        return replace(self, law=self.law.at(space.at(self.scored.resolution)))

    def cautious(self) -> PosteriorScores:
        return replace(self, law=self.law.cautious())

    def check(self, space: Space) -> None:
        self.law.check(space)
        self.rows.check(space)

    def covered(self, space: Space) -> Space:
        return self.rows.covered(space)

    def cost(self, arch: Architecture) -> float:
        # By parts for published members too: their published numbers are of another training and
        # other images than the measurements. So these scores have no exceptions.
        return self.law.parts_cost(arch) + self.rows.cost(arch)

    def accuracy(self, arch: Architecture) -> Accuracy:
        check_type("arch", arch, Architecture, "nas.load_architecture")
        if self.level is None:
            # Without a measured level there is only the law's, which is ImageNet top-1.
            return replace(self.law.accuracy(arch), source="; ".join(self.notes))
        error = self._error(arch)
        return Accuracy(
            self.level - self.cost(arch),
            error,
            self.metric,
            "; ".join(self.notes),
            self.law.reasons(arch),
        )

    def difference_error(self, arch: Architecture, other: Architecture) -> float:
        if self.uncertainty is not None:
            return float(np.sqrt(self.uncertainty.variance(arch, other)))
        gradient = self.law.gradient(arch) - self.law.gradient(other)
        rows = self.rows.standard_error(arch) ** 2 + self.rows.standard_error(other) ** 2
        return self._kept_error(gradient, rows)

    def _error(self, arch: Architecture) -> float:
        if self.uncertainty is not None:
            return float(np.sqrt(self.uncertainty.variance(arch)))
        # Against the largest member, whose measured accuracy is the level that costs are subtracted
        # from.
        gradient = self.law.gradient(arch) - self.law.gradient(self.scored.largest())
        return self._kept_error(gradient, self.rows.standard_error(arch) ** 2)

    def _kept_error(self, gradient: Floats, rows: float) -> float:
        """Return the standard error in points from the figures that the files keep.

        They lack the correlations of rows, so that it is right to a factor of two.

        Args:
            gradient: derivatives of the accuracy or difference by the coefficients, (names,).
            rows: variance of the rows' sum, in squared points.
        """
        coefficients = float(gradient @ self.law.law.covariance @ gradient)
        return float(np.sqrt(self.law.scale**2 * coefficients + rows + self.noise**2))

    def stem_cost(self, stem: EntrySpec) -> float:
        return self.law.stem_cost(stem) + self.rows.stem_cost(stem)

    def head_cost(self, head: HeadSpec) -> float:
        return self.law.head_cost(head) + self.rows.head_cost(head)

    def entry_cost(self, index: int, entry: EntrySpec, before: int) -> float:
        return self.law.entry_cost(index, entry, before) + self.rows.entry_cost(
            index, entry, before
        )

    def block_cost(self, index: int, position: int, block: BlockSpec, width: int) -> float:
        return self.rows.block_cost(index, position, block, width)

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        return self.law.counts(index, block)

    def stage_cost(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        return self.law.stage_cost(index, width, counts)

    def stage_costs(self, index: int, widths: Ints, counts: Ints) -> Floats:
        return self.law.stage_costs(index, widths, counts)

    def save(self, folder: str | Path) -> None:
        from nas.accuracy.posterior_file import write_posterior

        write_posterior(self, Path(folder))
