"""Networks by predicted latency and expected accuracy: the points that several pictures show, and their frame.

Better is upward on every picture. Where the scores know a level, the y axis is the expected accuracy in percent; where
they know costs only, it is the points below the space's largest member, fewer of them further up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.accuracy import Accuracy, Scores
from nas.latency import LatencyTable
from nas.report.pictures import figure_of, plain, write_picture
from nas.runs.schema import About, Member
from nas.search import Problem
from nas.search.run import kind_of
from nas.search.run import published as published_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MS = "predicted latency (ms)"
METRICS = {"top1": "top-1", "miou": "mIoU"}
"""What metrics are called."""


@dataclass(frozen=True)
class Point:
    """A network by its predicted latency and its expected accuracy.

    Attributes:
        cost: expected accuracy drop against the space's largest member, in points.
        about: further lines on it, for readers who ask.
        accuracy, error: in percent with its standard error in points; None where only costs are known.
        ms_error: standard error of `ms`; None where nobody checked the table.
    """

    label: str
    ms: float
    cost: float
    about: tuple[str, ...] = ()
    accuracy: float | None = None
    error: float | None = None
    ms_error: float | None = None


@dataclass(frozen=True)
class Axis:
    """The y axis: `absolute` for accuracies in percent, else points below the largest member, downward."""

    label: str
    absolute: bool

    def value(self, point: Point) -> float:
        """Return where the point stands."""
        return point.accuracy if self.absolute and point.accuracy is not None else point.cost


def axis_of(points: Iterable[Point], kind: str, metric: str = "top1") -> Axis:
    """Return the axis for these points, by scores of this kind: absolute where the accuracy of all is known."""
    known = [point.accuracy is not None for point in points]
    name = METRICS.get(metric, metric)
    if known and all(known):
        return Axis(f"expected {'ImageNet ' if kind == 'law' else ''}{name} (%)", absolute=True)
    return Axis(f"points of {name} below the largest member", absolute=False)


def point_of(label: str, member: Member) -> Point:
    """Return a member that a run recorded as a point."""
    known = member.accuracy
    return Point(
        label,
        member.latency_ms,
        member.cost,
        (*accuracy_lines(member), *shape_lines(member.model_dump())),
        None if known is None else known.value,
        None if known is None else known.standard_error,
        member.latency_error,
    )


def values_of(accuracy: Accuracy | None) -> tuple[float | None, float | None]:
    """Return value and standard error, None where there is no accuracy."""
    return (None, None) if accuracy is None else (accuracy.value, accuracy.standard_error)


def accuracy_lines(member: Member) -> tuple[str, ...]:
    """Return what is known of a published member's accuracy beside its number, and why a figure is extrapolated."""
    known = member.accuracy
    if known is None:
        return ()
    if known.predicted is not None:
        error = "" if known.predicted_error is None else f" ± {known.predicted_error:.1f}"
        return (f"published; predicted without it {known.predicted:.1f}{error} %",)
    return known.reasons


def published_points(members: Mapping[str, Member], space: str) -> tuple[Point, ...]:
    """Return published members as points, without the space's name in theirs."""
    return tuple(point_of(name.removeprefix(f"{space}_"), member) for name, member in members.items())


def published(problem: Problem) -> tuple[Point, ...]:
    """Return the published members of a problem's space that its device can run."""
    rows = published_rows(problem)
    return published_points({name: Member.model_validate(row) for name, row in rows.items()}, problem.space.name)


def shape_lines(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Shape and size of a member, from what `nas.search.run.summary` gives; shapes may be text already."""
    shapes = {
        name: row[name] if isinstance(row[name], str) else "-".join(map(str, row[name]))
        for name in ("widths", "depths", "attention")
    }
    return (
        f"widths {shapes['widths']}",
        f"depths {shapes['depths']}, attention blocks {shapes['attention']}",
        f"{row['params'] / 1e6:.2f} M parameters, {row['macs'] / 1e9:.3f} G MACs",
    )


def note(table: LatencyTable, scores: Scores) -> str:
    """Where the figures of a picture came from."""
    device = table.device
    runtime = f"{device.runtime} {device.runtime_version}"
    return _note(table.provenance, device.soc, device.os, runtime, table.expected_error, scores.provenance)


def note_of(about: About) -> str:
    """The same, as a run recorded it."""
    table = about.table
    return _note(table.provenance, table.soc, table.os, table.runtime, table.expected_error, about.scores.provenance)


def _note(provenance: str, soc: str, os: str, runtime: str, expected_error: float | None, scores: str) -> str:
    error = "" if expected_error is None else f", expected error {expected_error:.1f} %"
    return f"Latency: {provenance} table, {soc}, {os}, {runtime}{error}.\nAccuracy: {scores}. ± is one standard error."


def axis_of_problem(problem: Problem, points: Iterable[Point]) -> Axis:
    """Return the axis for points by the scores of a problem."""
    return axis_of(points, kind_of(problem.scores), problem.scores.metric)


@dataclass(frozen=True)
class View:
    """The part of the plane that a picture shows: left and right in ms, bottom and top in units of the axis."""

    left: float
    right: float
    bottom: float
    top: float


def view(axis: Axis, curve: Sequence[Point], marked: Sequence[Point], target_ms: float) -> View | None:
    """Return the part that holds all marked points with their errors, and the curve around them.

    A front begins with members far worse than any that somebody ships, which would squeeze the rest together.
    """
    marked = marked or curve
    if not marked:
        return None
    sign = 1.0 if axis.absolute else -1.0
    ends = [sign * axis.value(p) + side * _error(axis, p) for p in marked for side in (-1, 1)]
    ends += [max(sign * axis.value(p) + _error(axis, p) for p in curve)] if curve else []
    low, high = min(ends), max(ends)
    span = max(high - low, 1.0)
    low -= 0.25 * span
    high += 0.12 * span
    shown = [p.ms for p in (*marked, *curve) if sign * axis.value(p) >= low]
    shown += [p.ms + side * (p.ms_error or 0.0) for p in marked for side in (-1, 1)]
    shown += [target_ms] if isfinite(target_ms) else []
    # Room on the left for the label of what was found.
    span = max(max(shown) - min(shown), 0.02 * max(shown), 1e-6)
    return View(min(shown) - 0.15 * span, max(shown) + 0.08 * span, sign * low, sign * high)


def _error(axis: Axis, point: Point) -> float:
    return point.error or 0.0 if axis.absolute else 0.0


PUBLISHED_PLACES = ("bottom right", "middle right", "top right", "bottom center", "bottom left", "top left")
FOUND_PLACES = ("top left", "middle left", "top center", "top right", "bottom left", "bottom right")
"""Where a label may stand beside its marker, the best place first: a front leaves room above its left and below its
right end."""


def label_places(
    axis: Axis, points: Sequence[tuple[Point, str, Sequence[str]]], frame: View, size: tuple[float, float]
) -> list[str]:
    """Return where the label of each point stands, so that labels cover neither one another nor a marker.

    Args:
        points: each with its label and the places that it may take, the best first.
        size: of the picture in units of a letter's width and of a line's height.
    """
    width, height = size
    across = width / (frame.right - frame.left)
    up = height / (frame.top - frame.bottom)
    spots = [((p.ms - frame.left) * across, (axis.value(p) - frame.bottom) * up) for p, _, _ in points]
    taken = [(x - 1.0, y - 0.5, x + 1.0, y + 0.5) for x, y in spots]
    for (x, y), (point, _, _) in zip(spots, points, strict=True):
        # The error bars of a point.
        sideways = (point.ms_error or 0.0) * across
        upward = (point.error or 0.0) * abs(up) if axis.absolute else 0.0
        taken += [(x - sideways, y - 0.1, x + sideways, y + 0.1), (x - 0.2, y - upward, x + 0.2, y + upward)]
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
    left = {"left": x - letters - 1.5, "center": x - letters / 2, "right": x + 1.5}[horizontal]
    low = {"top": y + 0.5, "middle": y - 0.5, "bottom": y - 1.5}[vertical]
    return left, low, left + letters, low + 1.0


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def labelled(point: Point, axis: Axis) -> str:
    """Return a point's label, with its accuracy where there is one."""
    return f"{point.label} {point.accuracy:.1f}" if axis.absolute and point.accuracy is not None else point.label


_FOUND, _PUBLISHED = "#cc3311", "#aa4499"
_OTHERS = (("#e69f00", "s"), ("#009e73", "^"))
"""Colour and marker of what other engines found; the colours keep apart for colour-blind readers."""


def save(
    draw: Callable[[Axes], None], axis: Axis, curve: Sequence[Point], found: Sequence[Point],
    published: Sequence[Point], target_ms: float, title: str, note: str, path: str | Path,
) -> None:  # fmt: skip
    """Write as PNG what `draw` draws, with found and published members, the target (where there is one) and labels.

    The first of `found` is what the search found, the others are what other engines would find.
    """
    found = [*(replace(point, label="found") for point in found[:1]), *found[1:]]
    figure, axes = figure_of(8.0, 5.4)
    draw(axes)
    frame = view(axis, curve, (*found, *published), target_ms)
    _draw_published(axes, axis, published)
    _draw_found(axes, axis, found)
    if isfinite(target_ms):
        axes.axvline(
            target_ms, color=_FOUND, linestyle="--", linewidth=1.0, label=f"target {target_ms:.3g} ms", zorder=1
        )
    if frame:
        _draw_labels(axes, axis, found, published, frame)
        axes.set(xlim=(frame.left, frame.right), ylim=(frame.bottom, frame.top))
    axes.set(xlabel=MS, ylabel=axis.label)
    write_picture(figure, title, note, path)


def _errors(axis: Axis, points: Sequence[Point]) -> list[float] | None:
    return [p.error or 0.0 for p in points] if axis.absolute and any(p.error for p in points) else None


def _bars(axes: Axes, axis: Axis, points: Sequence[Point], colour: str) -> None:
    """Draw one standard error up and down, and left and right, of each point."""
    axes.errorbar(
        [p.ms for p in points], [axis.value(p) for p in points], yerr=_errors(axis, points),
        xerr=[p.ms_error or 0.0 for p in points] if any(p.ms_error for p in points) else None,
        fmt="none", ecolor=colour, elinewidth=1.0, capsize=2.5, alpha=0.7, zorder=4,
    )  # fmt: skip


def _draw_found(axes: Axes, axis: Axis, found: Sequence[Point]) -> None:
    for point, (colour, marker) in zip(found[1:], _OTHERS, strict=False):
        axes.scatter([point.ms], [axis.value(point)], s=70, facecolors="none", edgecolors=colour, marker=marker,
                     linewidths=1.4, label=f"{point.label} would find", zorder=5)  # fmt: skip
    if found:
        point = found[0]
        _bars(axes, axis, found[:1], _FOUND)
        axes.scatter([point.ms], [axis.value(point)], s=130, color=_FOUND, edgecolors="white", linewidths=1.5,
                     label="found", zorder=6)  # fmt: skip


def _draw_published(axes: Axes, axis: Axis, published: Sequence[Point]) -> None:
    if published:
        _bars(axes, axis, published, _PUBLISHED)
        axes.scatter([p.ms for p in published], [axis.value(p) for p in published], s=90, color=_PUBLISHED, marker="*",
                     label="published members", zorder=5)  # fmt: skip


def _draw_labels(axes: Axes, axis: Axis, found: Sequence[Point], published: Sequence[Point], frame: View) -> None:
    from matplotlib.patheffects import withStroke

    texts = [(p, labelled(p, axis), FOUND_PLACES, _FOUND) for p in found[:1]]
    texts += [(p, labelled(p, axis), PUBLISHED_PLACES, _PUBLISHED) for p in published]
    # An 8 x 5.4 inch picture holds about 105 letters of 8.5 points across, and 30 lines.
    places = label_places(axis, [(p, text, options) for p, text, options, _ in texts], frame, (105.0, 30.0))
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for (point, text, _, colour), place in zip(texts, places, strict=True):
        vertical, horizontal = place.split()
        axes.annotate(
            plain(text), (point.ms, axis.value(point)), textcoords="offset points", fontsize=8.5, color=colour,
            xytext=({"left": -7, "center": 0, "right": 7}[horizontal], {"top": 6, "middle": 0, "bottom": -6}[vertical]),
            ha={"left": "right", "center": "center", "right": "left"}[horizontal],
            va={"top": "bottom", "middle": "center", "bottom": "top"}[vertical],
            fontweight="bold" if colour == _FOUND else "normal", zorder=7, path_effects=halo,
        )  # fmt: skip
