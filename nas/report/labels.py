"""The range of latency and accuracy that a figure shows, and the positions of its labels.

`nas.report.front` and `nas.report.trajectory` call `view` and `place_labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from nas.report.points import Axis, Point


@dataclass(frozen=True)
class View:
    """The range that a figure shows.

    Attributes:
        left, right: in ms.
        bottom, top: in units of the y axis.
    """

    left: float
    right: float
    bottom: float
    top: float


def view(
    axis: Axis, curve: Sequence[Point], marked: Sequence[Point], target_ms: float
) -> View | None:
    """Return the range that holds all marked points with their errors, and the curve around them.

    The rest of the curve is cut off: a front begins with members far below the published ones,
    which would compress all others.
    """
    marked = marked or curve
    if not marked:
        return None
    sign = 1.0 if axis.absolute else -1.0
    ends = [sign * axis.value(p) + side * _error(axis, p) for p in marked for side in (-1, 1)]
    ends += [max(sign * axis.value(p) + _error(axis, p) for p in curve)] if curve else []
    low = min(ends)
    high = max(ends)
    # At least a point: a figure of nearly equal accuracies would magnify their last digits.
    span = max(high - low, 1.0)
    low -= 0.25 * span
    high += 0.12 * span
    shown = [p.ms for p in (*marked, *curve) if sign * axis.value(p) >= low]
    shown += [p.ms + side * (p.ms_error or 0.0) for p in marked for side in (-1, 1)]
    shown += [target_ms] if isfinite(target_ms) else []
    # Room on the left for the label of the found member.
    span = max(max(shown) - min(shown), 0.02 * max(shown), 1e-6)
    return View(min(shown) - 0.15 * span, max(shown) + 0.08 * span, sign * low, sign * high)


def _error(axis: Axis, point: Point) -> float:
    return point.error or 0.0 if axis.absolute else 0.0


PUBLISHED_PLACES = (
    "bottom right",
    "middle right",
    "top right",
    "bottom center",
    "bottom left",
    "top left",
)
FOUND_PLACES = ("top left", "middle left", "top center", "top right", "bottom left", "bottom right")
"""Positions of a label beside its marker, the best first.

A front leaves room above its left end, for the found member, and below its right end, for
published members.
"""


def label_places(
    axis: Axis,
    points: Sequence[tuple[Point, str, Sequence[str]]],
    frame: View,
    size: tuple[float, float],
) -> list[str]:
    """Return the position of each point's label.

    Greedy: a label takes its first position that covers no earlier label, no marker and no error
    bar. Without a free one it takes its best position.

    Args:
        axis: the y axis.
        points: each with its label and the positions that it may take, the best first.
        frame: the range that is shown.
        size: of the figure, in letter widths and line heights.
    """
    width, height = size
    across = width / (frame.right - frame.left)
    # Negative where fewer points are better: `top` is the smaller value there, and positions grow
    # upward all the same.
    up = height / (frame.top - frame.bottom)
    spots = [
        ((p.ms - frame.left) * across, (axis.value(p) - frame.bottom) * up) for p, _, _ in points
    ]
    # A marker covers about two letters and a line. All markers are taken before any label is
    # placed.
    taken = [(x - 1.0, y - 0.5, x + 1.0, y + 0.5) for x, y in spots]
    for (x, y), (point, _, _) in zip(spots, points, strict=True):
        # The error bars of a point.
        sideways = (point.ms_error or 0.0) * across
        upward = (point.error or 0.0) * abs(up) if axis.absolute else 0.0
        taken += [
            (x - sideways, y - 0.1, x + sideways, y + 0.1),
            (x - 0.2, y - upward, x + 0.2, y + upward),
        ]
    places = []
    for (x, y), (_, text, options) in zip(spots, points, strict=True):
        boxes = {place: _box(x, y, len(text), place) for place in options}
        free = (
            place
            for place, box in boxes.items()
            if box[0] >= 0 and box[2] <= width and not any(_overlap(box, other) for other in taken)
        )
        place = next(free, options[0])
        taken.append(boxes[place])
        places.append(place)
    return places


_Box = tuple[float, float, float, float]


def _box(x: float, y: float, letters: int, place: str) -> _Box:
    vertical, horizontal = place.split()
    # A label stands 1.5 letters beside its marker, or half a line above or below it.
    left = {"left": x - letters - 1.5, "center": x - letters / 2, "right": x + 1.5}[horizontal]
    low = {"top": y + 0.5, "middle": y - 0.5, "bottom": y - 1.5}[vertical]
    return left, low, left + letters, low + 1.0


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def labelled(point: Point, axis: Axis) -> str:
    """Return a point's label, with its accuracy where there is one."""
    return (
        f"{point.label} {point.accuracy:.1f}"
        if axis.absolute and point.accuracy is not None
        else point.label
    )


FOUND_COLOUR = "#e03131"
PUBLISHED_COLOUR = "#b0509a"
GREY = "#8a8f98"
COLOURS = ("#2f86c6", "#cf7a22", "#1a9e77", "#b0509a", "#948c35", "#c8503c", "#7f8c9a")
"""Colours of series. They have contrast on white and on black, and differ for colour-blind readers.
"""
_LETTERS = (118.0, 30.0)
"""Width in letters and height in lines of a figure of the default size, to find free positions."""


@dataclass(frozen=True)
class Label:
    """A text beside a point.

    Attributes:
        place: its position relative to the point, such as "top left".
    """

    point: Point
    text: str
    place: str
    colour: str


def place_labels(
    axis: Axis,
    found: Sequence[Point],
    published: Sequence[Point],
    frame: View | None,
    others: Sequence[Point] = (),
) -> tuple[Label, ...]:
    """Return the labels of the first found member and of the published members.

    Points in `others` have no label; labels do not cover their markers.
    """
    if frame is None:
        return ()
    texts = [(p, labelled(p, axis), FOUND_PLACES, FOUND_COLOUR) for p in found[:1]]
    texts += [(p, labelled(p, axis), PUBLISHED_PLACES, PUBLISHED_COLOUR) for p in published]
    texts += [(p, "", PUBLISHED_PLACES, GREY) for p in others]
    places = label_places(
        axis, [(p, text, options) for p, text, options, _ in texts], frame, _LETTERS
    )
    placed = zip(texts, places, strict=True)
    return tuple(
        Label(point, text, place, colour) for (point, text, _, colour), place in placed if text
    )
