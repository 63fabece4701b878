"""The ranges of published members, outside of which the accuracy law is less certain.

`nas.accuracy.law_stages` compares stages with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

WIDTH_RATIOS = (1.3, 2.6)
"""Range of the ratio of neighbouring stages' widths in nearly all published networks."""
MEAN_EXPANSION = "mean expansion"
"""Name of the figure in reasons."""

PublishedStage = tuple[float, float, float, float]
"""A stage of a published member: width, blocks, attention blocks and mean expansion."""


def figure_ranges(seen: Sequence[PublishedStage]) -> list[tuple[str, float, float]]:
    """Return the name, minimum and maximum of each figure of one stage of published members."""
    figures = {
        "width": [each[0] for each in seen],
        "depth": [each[1] for each in seen],
        # A stage without blocks has no expansion.
        MEAN_EXPANSION: [each[3] for each in seen if each[1]],
    }
    return [(name, min(each), max(each)) for name, each in figures.items() if each]


def width_ratios(stages: Sequence[Sequence[PublishedStage]]) -> list[tuple[float, float]]:
    """Return the range of each stage's width over that of the stage before.

    It is `WIDTH_RATIOS`, extended to the published members. The first stage's is not used.
    """
    ranges = [WIDTH_RATIOS]
    for before, stage in pairwise(stages):
        ratios = [after[0] / first[0] for first, after in zip(before, stage, strict=True)]
        ranges.append((min([WIDTH_RATIOS[0], *ratios]), max([WIDTH_RATIOS[1], *ratios])))
    return ranges


def octaves(value: float, low: float, high: float) -> float:
    """Return by how many factors of two `value` lies outside of low to high; 0 inside."""
    return max(math.log2(low / value), math.log2(value / high), 0.0)


def range_text(low: float, high: float) -> str:
    """Return a range as text: 2, or 2 to 6."""
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
