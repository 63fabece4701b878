"""The ranges of published members, outside of which the accuracy law is less certain.

`nas.accuracy.law_stages` compares stages with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from nas.accuracy.law import Floats, Ints

WIDTH_RATIOS = (1.3, 2.6)
"""Range of the ratio of neighbouring stages' widths in nearly all published networks."""
_MEAN_EXPANSION = "mean expansion"
_ROUNDING = 0.005
"""Share by which a figure may leave the published range and still count as within it."""

PublishedStage = tuple[float, float, float, float]
"""A stage of a published member: width, blocks, attention blocks and mean expansion."""


@dataclass(frozen=True)
class StageRange:
    """The figures of one stage in published members.

    Attributes:
        number: of the stage, counted from 1.
        seen: figures of every published member. Where it is empty, nothing counts as outside.
        ratio: range of the stage's width over that of the stage before.
    """

    number: int
    seen: tuple[PublishedStage, ...]
    ratio: tuple[float, float]

    @cached_property
    def _figures(self) -> list[tuple[str, float, float]]:
        """Return the name, minimum and maximum of each figure that can be compared in octaves."""
        figures = {
            "width": [each[0] for each in self.seen],
            "depth": [each[1] for each in self.seen],
            # A stage without blocks has no expansion.
            _MEAN_EXPANSION: [each[3] for each in self.seen if each[1]],
        }
        return [(name, min(each), max(each)) for name, each in figures.items() if each]

    @cached_property
    def _attention(self) -> tuple[float, float]:
        """Return the least and the most attention blocks; all numbers where nothing is published."""
        counts = [each[2] for each in self.seen]
        return min(counts, default=-math.inf), max(counts, default=math.inf)

    def octaves_beyond(self, widths: Ints, blocks: Ints, expansion: Floats, least: float) -> Floats:
        """Return by how many factors of two stages lie outside, summed over figures, (stages,).

        Args:
            widths: (stages,), in channels.
            blocks: (stages,), their numbers.
            expansion: (stages,), the mean of their blocks.
            least: smallest value that a figure counts as, since a logarithm of 0 is infinite.
        """
        total = np.zeros(len(widths))
        for (name, low, high), values in zip(
            self._figures, (widths, blocks, expansion), strict=False
        ):
            inside = (low * (1 - _ROUNDING) <= values) & (values <= high * (1 + _ROUNDING))
            # A stage of its entry alone has no mean expansion that could lie outside of the data.
            inside |= (name == _MEAN_EXPANSION) & (blocks == 0)
            value = np.maximum(values, least)
            below = np.log2(max(low, least) / value)
            above = np.log2(value / max(high, least))
            total += np.where(inside, 0.0, np.maximum(np.maximum(below, above), 0.0))
        return total

    def attention_beyond(self, attention: Ints) -> Floats:
        """Return by how many attention blocks stages lie outside, (stages,).

        Numbers of attention blocks begin at 0, so their distance is not counted in octaves.
        """
        least, most = self._attention
        beyond: Floats = np.maximum(np.maximum(least - attention, attention - most), 0.0)
        return beyond

    def reasons(self, width: int, blocks: int, attention: int, expansion: float) -> list[str]:
        """Return why a stage lies outside of the data, one text per figure.

        Args:
            width: in channels.
            blocks: number of blocks.
            attention: number of attention blocks.
            expansion: mean of the blocks.
        """
        # A stage of its entry alone has no mean expansion that could lie outside of the data.
        values = [width, blocks, *([expansion] if blocks else [])]
        reasons = [
            f"stage {self.number}: {name} {value:.3g}, published members have"
            f" {_range_text(low, high)}"
            for (name, low, high), value in zip(self._figures, values, strict=False)
            if not low * (1 - _ROUNDING) <= value <= high * (1 + _ROUNDING)
        ]
        if self.attention_beyond(np.array([attention]))[0] > 0:
            reasons.append(
                f"stage {self.number}: {attention} attention blocks, published members have"
                f" {_range_text(*self._attention)}"
            )
        return reasons

    def jump(self, before: int, width: int) -> tuple[str, float]:
        """Return the reason and the octaves of a jump in width from the stage before.

        Both are empty within the range of published networks, and for the first stage.
        """
        if self.number == 1:
            return "", 0.0
        low, high = self.ratio
        beyond = octaves(width / before, low, high)
        if beyond < 0.01:
            return "", 0.0
        reason = (
            f"stage {self.number} is {width / before:.2g} times as wide as stage"
            f" {self.number - 1}, not {low:.2g} to {high:.2g}"
        )
        return reason, beyond


def stage_ranges(stages: Sequence[Sequence[PublishedStage]]) -> list[StageRange]:
    """Return the range of each stage, from its figures in every published member."""
    ratios = [WIDTH_RATIOS]
    for before, stage in pairwise(stages):
        seen = [after[0] / first[0] for first, after in zip(before, stage, strict=True)]
        ratios.append((min([WIDTH_RATIOS[0], *seen]), max([WIDTH_RATIOS[1], *seen])))
    return [
        StageRange(number, tuple(stage), ratio)
        for number, (stage, ratio) in enumerate(zip(stages, ratios, strict=True), start=1)
    ]


def octaves(value: float, low: float, high: float) -> float:
    """Return by how many factors of two `value` lies outside of low to high; 0 inside."""
    return max(math.log2(low / value), math.log2(value / high), 0.0)


def _range_text(low: float, high: float) -> str:
    """Return a range as text: 2, or 2 to 6."""
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
