"""The gate of evidence: decide whether a supernet's measurements can tell moves apart.

`nas train` prints its verdict after scoring. A search calls it before recorded scores may correct the
law. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from nas.accuracy.recorded import RecordedScores

SIGNIFICANT = 2.0
"""Minimum distance of the largest member's accuracy from chance, in standard errors."""
HALF_NORMAL = 0.6745
"""Median of |x| for standard normal x, the ratio of a median |difference| to its deviation."""
RESOLUTION = 1.0
"""Difference to resolve where the spread of the drops is hidden by noise, in points."""
SAME = 1e-9
"""Difference up to which two drops are equal, in points."""


class Reason(Enum):
    """The reasons why evidence is not usable; `--json` has their values."""

    TOO_FEW_IMAGES = "too_few_images"
    UNTRAINED = "untrained"
    EQUAL_COSTS = "equal_costs"


@dataclass(frozen=True)
class Evidence:
    """The figures that the gate decides by.

    Attributes:
        images: number of held-out images; None where it was not recorded.
        classes: number of classes of the data.
        accuracy: of the largest member, in percent; None where it was not recorded.
        drops: accuracy drop of each measured move, in points; costs where no drops were recorded.
        errors: standard error of each drop, in points; empty where they were not recorded.
    """

    images: int | None
    classes: int
    accuracy: float | None
    drops: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """The gate's decision about evidence.

    Attributes:
        reason: why the evidence is not usable; None where it is.
        images: number of held-out images; None where it was not recorded.
        images_needed: number of images that would suffice; None where more do not help or `images`
            is None. For an untrained supernet, how many would confirm its accuracy as above chance.
        at_least: whether `images_needed` is a lower bound, because noise hides the spread of the
            drops.
        accuracy: of the largest member, in percent.
        chance: accuracy of guessing, 100 / classes, in percent.
        moves: number of measured moves.
        difference: median true difference between the drops of two moves, in points, without the
            noise that the standard errors explain.
        standard_error: median standard error of such a difference, in points.
        checked: whether there were drops with standard errors; evidence without them passes.
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
        """Return the verdict in one line, for people."""
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
    """Return the verdict on recorded scores."""
    measured = [row for row in scores.rows if row.accuracy_drop is not None]
    with_errors = all(row.standard_error is not None for row in measured)
    drops = [row.accuracy_drop or 0.0 for row in measured] or [row.cost for row in scores.rows]
    return verdict_on(
        Evidence(
            images=scores.images,
            classes=scores.scored.classes,
            accuracy=scores.baseline_accuracy,
            drops=tuple(drops),
            errors=tuple(row.standard_error or 0.0 for row in measured) if with_errors else (),
        )
    )


def verdict_on(evidence: Evidence) -> Verdict:
    """Return the verdict on these figures.

    Evidence is not usable, in this order, where

    - the images are too few to tell even a perfect largest member from chance;
    - the largest member is not above chance by two standard errors, so that the costs of its moves
      say nothing about a trained network (this is the score test, whose inversion is the Wilson
      interval);
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
        # More images help only if the present ones are too few to see a difference of one point.
        needed = _unseen(images, error) if images is not None and error > RESOLUTION else None
        return verdict(Reason.EQUAL_COSTS, needed, at_least=True)
    if not checked or difference >= error:
        return verdict(None)
    if images is None:
        return verdict(Reason.TOO_FEW_IMAGES)
    if difference > 0:
        # A standard error falls with the square root of the number of images, so this many bring
        # it down to the difference.
        return verdict(Reason.TOO_FEW_IMAGES, images * (error / difference) ** 2)
    return verdict(Reason.TOO_FEW_IMAGES, _unseen(images, error), at_least=True)


def rounded_up(count: int) -> int:
    """Return `count` rounded up to two significant digits, such as 1,900 for 1,838."""
    step = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // step) * step


def _spread(evidence: Evidence) -> tuple[float, float]:
    """Return the median true difference over all pairs of moves, and its median standard error.

    Both are in points.
    """
    drops: NDArray[np.float64] = np.array(evidence.drops)
    errors: NDArray[np.float64] = np.array(evidence.errors)
    first, second = np.triu_indices(len(drops), 1)
    if not len(first):
        return 0.0, float(errors.max())
    seen = float(np.median(np.abs(drops[first] - drops[second])))
    error = float(np.median(np.hypot(errors[first], errors[second])))
    # Noise alone shows a median difference of 0.67 standard errors. So its variance is subtracted
    # from that of the differences. Otherwise moves that all cost the same would seem to become
    # distinguishable with about twice the images.
    variance = (seen / HALF_NORMAL) ** 2 - error**2
    return HALF_NORMAL * math.sqrt(max(variance, 0.0)), error


def _unseen(images: int, error: float) -> float:
    """Return a lower bound on the images needed where noise hides the spread of the drops.

    With so many images a difference has a standard error of `RESOLUTION` points. It is at least
    twice the present number.
    """
    return max(2.0 * images, images * (error / RESOLUTION) ** 2)


def _least_images(accuracy: float, chance: float) -> float:
    """Return how many images show that an accuracy (percent) is above chance; infinite if it is not."""
    if accuracy <= chance:
        return math.inf
    share = accuracy / 100
    guess = chance / 100
    # The smallest n with share - guess > 2 sqrt(guess (1 - guess) / n), and more than one image.
    return max(2.0, math.floor(SIGNIFICANT**2 * guess * (1 - guess) / (share - guess) ** 2) + 1.0)


def _images(count: int | None) -> str:
    if count is None:
        return "the held-out images"
    return f"{count:,} held-out image{'' if count == 1 else 's'}"
