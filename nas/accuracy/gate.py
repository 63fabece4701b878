"""The gate of evidence: whether what a supernet measured can tell moves apart. Imports no torch.

`nas train` tells its verdict after scoring; a search asks it before it lets recorded scores correct
the law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from nas.accuracy.recorded import RecordedScores

SIGNIFICANT = 2.0
"""Standard errors by which the largest member must lie above chance."""
HALF_NORMAL = 0.6745
"""Median of |x| for standard normal x; turns a median |difference| into a standard deviation."""
RESOLUTION = 1.0
"""Points to tell apart where the spread of the drops itself cannot be seen."""
SAME = 1e-9
"""Points below which two drops are equal."""


class Reason(Enum):
    """Why evidence is not usable; the values are what `--json` carries."""

    TOO_FEW_IMAGES = "too_few_images"
    UNTRAINED = "untrained"
    EQUAL_COSTS = "equal_costs"


@dataclass(frozen=True)
class Evidence:
    """The figures that the gate looks at.

    Attributes:
        images: held-out images; None where nobody recorded how many.
        classes: of the data.
        accuracy: of the largest member, in percent; None where it was not recorded.
        drops: accuracy drop of each measured move, in points; the costs where no drops were
            recorded.
        errors: standard error of each of them, in points; as many, or none where they were not
            recorded.
    """

    images: int | None
    classes: int
    accuracy: float | None
    drops: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        reason: why the evidence is not usable; None where it is.
        images: held-out images that were used, if that is known.
        images_needed: how many would do; None where more images do not help, or `images` is not
            known. Of an untrained supernet, how many would show that it is above chance by what it
            seems to be.
        at_least: whether `images_needed` is a lower bound, because the spread of the drops cannot
            be seen.
        accuracy: of the largest member, in percent.
        chance: accuracy of guessing, 100 / classes.
        moves: measured moves.
        difference: typical (median) true difference between the drops of two moves, in points; the
            noise of the images, as far as the standard errors explain it, is taken out.
        standard_error: typical (median) standard error of such a difference, in points.
        checked: whether there were drops with standard errors to look at; without, evidence passes.
    """

    reason: Reason | None
    images: int | None
    images_needed: int | None
    at_least: bool
    accuracy: float | None
    chance: float
    moves: int
    difference: float
    standard_error: float
    checked: bool

    @property
    def usable(self) -> bool:
        """Return whether the evidence can tell moves apart."""
        return self.reason is None

    @property
    def text(self) -> str:
        """Return the verdict in one line, for people; composed from the attributes."""
        if self.reason is None:
            return self._usable_text()
        if self.reason is Reason.UNTRAINED:
            return (
                f"not usable: the largest member has {self.accuracy:.1f} % on"
                f" {_images(self.images)}, which is not above chance ({self.chance:.1f} %). Train"
                f" longer{self._or_more_images()}."
            )
        if self.reason is Reason.EQUAL_COSTS:
            found = f"all {self.moves} moves cost the same on {_images(self.images)}"
        else:
            found = (
                f"{_images(self.images)} cannot tell moves apart (typical difference"
                f" {self.difference:.2f} points, standard error {self.standard_error:.2f})"
            )
        return f"not usable: {found}. {self._remedy()}"

    def _usable_text(self) -> str:
        if not self.checked:
            return "usable, but not checked: accuracy drops with standard errors were not recorded"
        return (
            f"usable: {_images(self.images)} tell moves apart (typical difference"
            f" {self.difference:.2f} points, standard error {self.standard_error:.2f})"
        )

    def _or_more_images(self) -> str:
        if self.images_needed is None:
            return ""
        return f", or score on about {rounded_up(self.images_needed):,} held-out images to be sure"

    def _remedy(self) -> str:
        if self.images_needed is None:
            return "Train longer, or score on more or harder images."
        bound = "at least " if self.at_least else "about "
        return f"It takes {bound}{rounded_up(self.images_needed):,} held-out images."


def gate(scores: RecordedScores) -> Verdict:
    """Return whether recorded scores can tell moves apart, and if not, why and what helps."""
    measured = [row for row in scores.rows if row.accuracy_drop is not None]
    with_errors = all(row.standard_error is not None for row in measured)
    drops = [row.accuracy_drop or 0.0 for row in measured] or [row.cost for row in scores.rows]
    return judge(
        Evidence(
            images=scores.images,
            classes=scores.scored.classes,
            accuracy=scores.baseline_accuracy,
            drops=tuple(drops),
            errors=tuple(row.standard_error or 0.0 for row in measured) if with_errors else (),
        )
    )


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict on these figures.

    Evidence is not usable, in this order, when

    - the images could not tell even a perfect largest member from chance;
    - the largest member is not above chance by two standard errors (the score test, whose inversion
      is the Wilson interval): what its moves cost says nothing of a trained network;
    - all drops are equal;
    - the median true difference between two drops is below its median standard error.
    """
    chance = 100 / evidence.classes
    checked = bool(evidence.drops) and bool(evidence.errors)
    difference, error = _spread(evidence) if checked else (0.0, 0.0)

    def verdict(
        reason: Reason | None, needed: float | None = None, at_least: bool = False
    ) -> Verdict:
        return Verdict(
            reason=reason,
            images=evidence.images,
            images_needed=None if needed is None else math.ceil(needed),
            at_least=at_least,
            accuracy=evidence.accuracy,
            chance=chance,
            moves=len(evidence.drops),
            difference=difference,
            standard_error=error,
            checked=checked,
        )

    images = evidence.images
    if images is not None:
        least = _least_images(100.0, chance)
        if images < least:
            return verdict(Reason.TOO_FEW_IMAGES, max(least, _unseen(images, error)), at_least=True)
        if evidence.accuracy is not None:
            least = _least_images(evidence.accuracy, chance)
            if images < least:
                return verdict(Reason.UNTRAINED, least if math.isfinite(least) else None)
    elif evidence.accuracy is not None and evidence.accuracy <= chance:
        return verdict(Reason.UNTRAINED)
    if len(evidence.drops) < 2:
        return verdict(None)
    if max(evidence.drops) - min(evidence.drops) <= SAME:
        # More images help only while the ones there are leave a difference of a point unseen.
        needed = _unseen(images, error) if images is not None and error > RESOLUTION else None
        return verdict(Reason.EQUAL_COSTS, needed, at_least=True)
    if not checked or difference >= error:
        return verdict(None)
    if images is None:
        return verdict(Reason.TOO_FEW_IMAGES)
    if difference > 0:
        # A standard error falls with the root of the number of images.
        return verdict(Reason.TOO_FEW_IMAGES, images * (error / difference) ** 2)
    return verdict(Reason.TOO_FEW_IMAGES, _unseen(images, error), at_least=True)


def rounded_up(count: int) -> int:
    """Return a number of images to give as an option: `count` rounded up to two digits, such as
    1,900 for 1,838."""
    step = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // step) * step


def _spread(evidence: Evidence) -> tuple[float, float]:
    """Return over all pairs of moves the median true difference and its median standard error."""
    drops: NDArray[np.float64] = np.array(evidence.drops)
    errors: NDArray[np.float64] = np.array(evidence.errors)
    first, second = np.triu_indices(len(drops), 1)
    if not len(first):
        return 0.0, float(errors.max())
    seen = float(np.median(np.abs(drops[first] - drops[second])))
    error = float(np.median(np.hypot(errors[first], errors[second])))
    # Noise alone would show a median difference of 0.67 standard errors, so its variance is
    # subtracted first; without that, moves that all cost the same would seem to become
    # distinguishable with twice the images.
    variance = (seen / HALF_NORMAL) ** 2 - error**2
    return HALF_NORMAL * math.sqrt(max(variance, 0.0)), error


def _unseen(images: int, error: float) -> float:
    """Return a lower bound of the images needed where the spread of the drops cannot be seen.

    As many as give a difference of one point a standard error of one point, and no fewer than twice
    those there are.
    """
    return max(2.0 * images, images * (error / RESOLUTION) ** 2)


def _least_images(accuracy: float, chance: float) -> float:
    """Return how many images show that an accuracy is above chance; infinite for one that is not."""
    if accuracy <= chance:
        return math.inf
    share = accuracy / 100
    guess = chance / 100
    # (share - guess) > 2 sqrt(guess (1 - guess) / n), and more than one image.
    return max(2.0, math.floor(SIGNIFICANT**2 * guess * (1 - guess) / (share - guess) ** 2) + 1.0)


def _images(count: int | None) -> str:
    if count is None:
        return "the held-out images"
    return f"{count:,} held-out image{'' if count == 1 else 's'}"
