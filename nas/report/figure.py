"""Networks by predicted latency and expected accuracy: the points that several figures show, their
frame and marks.

Better is upward on every picture. Where the scores know a level, the y axis is the expected
accuracy in percent; where they know costs only, it is the points below the space's largest member,
fewer of them further up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from nas.accuracy import Accuracy, Scores
from nas.figures import Figure, Series, Spec, clear, layer, lines, series_encoding, x_axis, y_axis
from nas.latency import LatencyTable
from nas.runs.schema import About, Member
from nas.search import Problem
from nas.search.record import kind_of
from nas.search.record import published as published_rows

MS = "predicted latency (ms)"
METRICS = {"top1": "top-1", "miou": "mIoU"}
"""What metrics are called."""


@dataclass(frozen=True)
class Point:
    """A network by its predicted latency and its expected accuracy.

    Attributes:
        cost: expected accuracy drop against the space's largest member, in points.
        about: further lines on it, for readers who ask.
        accuracy, error: in percent with its standard error in points; None where only costs are
            known.
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
    """The y axis: `absolute` for accuracies in percent, else points below the largest member,
    downward."""

    label: str
    absolute: bool

    def value(self, point: Point) -> float:
        """Return where the point stands."""
        return point.accuracy if self.absolute and point.accuracy is not None else point.cost


def axis_of(points: Iterable[Point], kind: str, metric: str = "top1") -> Axis:
    """Return the axis for these points, by scores of this kind: absolute where the accuracy of all
    is known."""
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
    """Return what is known of a published member's accuracy beside its number, and why a figure is
    extrapolated."""
    known = member.accuracy
    if known is None:
        return ()
    if known.predicted is not None:
        error = "" if known.predicted_error is None else f" ± {known.predicted_error:.1f}"
        return (f"published; predicted without it {known.predicted:.1f}{error} %",)
    return known.reasons


def published_points(members: Mapping[str, Member], space: str) -> tuple[Point, ...]:
    """Return published members as points, without the space's name in theirs."""
    return tuple(
        point_of(name.removeprefix(f"{space}_"), member) for name, member in members.items()
    )


def published(problem: Problem) -> tuple[Point, ...]:
    """Return the published members of a problem's space that its device can run."""
    rows = published_rows(problem)
    return published_points(
        {name: Member.model_validate(row) for name, row in rows.items()}, problem.space.name
    )


def shape_lines(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Shape and size of a member, from what `nas.search.record.summary` gives; shapes may be text
    already."""
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
    """Return where the figures of a picture came from."""
    device = table.device
    runtime = f"{device.runtime} {device.runtime_version}"
    return _note(
        table.provenance, device.soc, device.os, runtime, table.expected_error, scores.provenance
    )


def note_of(about: About) -> str:
    """Return the same, as a run recorded it."""
    table = about.table
    return _note(
        table.provenance,
        table.soc,
        table.os,
        table.runtime,
        table.expected_error,
        about.scores.provenance,
    )


def _note(
    provenance: str, soc: str, os: str, runtime: str, expected_error: float | None, scores: str
) -> str:
    error = "" if expected_error is None else f", expected error {expected_error:.1f} %"
    return (
        f"Latency: {provenance} table, {soc}, {os}, {runtime}{error}.\nAccuracy: {scores}. ± is one"
        " standard error."
    )


def axis_of_problem(problem: Problem, points: Iterable[Point]) -> Axis:
    """Return the axis for points by the scores of a problem."""
    return axis_of(points, kind_of(problem.scores), problem.scores.metric)


@dataclass(frozen=True)
class View:
    """The part of the plane that a picture shows: left and right in ms, bottom and top in units of
    the axis."""

    left: float
    right: float
    bottom: float
    top: float


def view(
    axis: Axis, curve: Sequence[Point], marked: Sequence[Point], target_ms: float
) -> View | None:
    """Return the part that holds all marked points with their errors, and the curve around them.

    A front begins with members far worse than any that somebody ships, which would squeeze the rest
    together.
    """
    marked = marked or curve
    if not marked:
        return None
    sign = 1.0 if axis.absolute else -1.0
    ends = [sign * axis.value(p) + side * _error(axis, p) for p in marked for side in (-1, 1)]
    ends += [max(sign * axis.value(p) + _error(axis, p) for p in curve)] if curve else []
    low = min(ends)
    high = max(ends)
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


PUBLISHED_PLACES = (
    "bottom right",
    "middle right",
    "top right",
    "bottom center",
    "bottom left",
    "top left",
)
FOUND_PLACES = ("top left", "middle left", "top center", "top right", "bottom left", "bottom right")
"""Where a label may stand beside its marker, the best place first: a front leaves room above its
left and below its right end."""


def label_places(
    axis: Axis,
    points: Sequence[tuple[Point, str, Sequence[str]]],
    frame: View,
    size: tuple[float, float],
) -> list[str]:
    """Return where the label of each point stands, so that labels cover neither one another nor a
    marker.

    Args:
        points: each with its label and the places that it may take, the best first.
        size: of the picture in units of a letter's width and of a line's height.
    """
    width, height = size
    across = width / (frame.right - frame.left)
    up = height / (frame.top - frame.bottom)
    spots = [
        ((p.ms - frame.left) * across, (axis.value(p) - frame.bottom) * up) for p, _, _ in points
    ]
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
"""Colours of series side by side. They stand out on white and on black, and differ for colour-blind
readers."""

FOUND = Series("found", FOUND_COLOUR)
STAR = "M0,-1L0.24,-0.32L0.95,-0.31L0.38,0.12L0.59,0.81L0,0.4L-0.59,0.81L-0.38,0.12L-0.95,-0.31L-0.24,-0.32Z"
"""A star as a path, for Vega has none."""
PUBLISHED = Series("published", PUBLISHED_COLOUR, STAR)

_HEIGHT = 430
_LETTERS = (118.0, 30.0)
"""Letters across and lines up that a figure of usual size holds, for labels that keep clear of one
another."""
_SHIFTS = {"left": ("right", -9), "center": ("center", 0), "right": ("left", 9)}
_LIFTS = {"top": ("bottom", -7), "middle": ("middle", 0), "bottom": ("top", 7)}
_MANY = 60
"""Markers of more members than this would hide their line."""


@dataclass(frozen=True)
class Curve:
    """A front: its members joined by steps, with one standard error around it where its errors are
    known.

    Attributes:
        band: what the legend calls that; empty for nothing.
    """

    series: Series
    points: Sequence[Point]
    band: str = ""


@dataclass(frozen=True)
class Marks:
    """Members of one series as markers. `bars` are their standard errors, `edge` a rim in the
    page's colour."""

    series: Series
    points: Sequence[Point]
    size: int = 70
    bars: bool = False
    edge: bool = False


@dataclass(frozen=True)
class Label:
    """A text beside a point: where it stands is one of the places above, as "top left"."""

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
    """Return the labels of what was found and of the published members; markers of `others` are
    kept clear."""
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


def plane(
    title: str,
    note: str,
    axis: Axis,
    frame: View | None,
    *,
    marks: Sequence[Marks],
    curves: Sequence[Curve] = (),
    way: Sequence[Point] = (),
    dotted: Sequence[Point] = (),
    labels: Sequence[Label] = (),
    target_ms: float = inf,
) -> Figure:
    """Return the figure of members by latency and accuracy.

    Args:
        way: points that a thin line joins in their order.
        dotted: points that a dotted line joins, such as a prediction and its measurement.
        target_ms: a dashed line, where it is finite.
    """
    shown: list[Curve | Marks] = [*curves, *marks]
    bands = [
        Series(each.band, clear(each.series.colour, 0.17), "square")
        for each in curves
        if each.band and _has_errors(axis, each.points)
    ]
    channels = series_encoding([*(each.series for each in shown if each.points), *bands])
    x = x_axis(
        MS,
        scale={
            "zero": False,
            "nice": False,
            **({"domain": [frame.left, frame.right]} if frame else {}),
        },
    )
    domain = {"domain": sorted((frame.bottom, frame.top))} if frame else {}
    y = y_axis(
        axis.label, scale={"zero": False, "nice": False, "reverse": not axis.absolute, **domain}
    )
    layers = [band for curve in curves for band in _band(axis, curve, x, y)]
    layers += [each for curve in curves for each in _curve_layers(axis, curve, channels, x, y)]
    layers += _way(axis, way, x, y, {"strokeWidth": 1, "stroke": GREY})
    layers += _way(
        axis, dotted, x, y, {"strokeWidth": 1, "stroke": FOUND_COLOUR, "strokeDash": [2, 3]}
    )
    layers += _target(target_ms, x)
    layers += [rule for each in marks if each.bars for rule in _error_bars(axis, each, x, y)]
    layers += [_markers(axis, each, channels, x, y) for each in marks if each.points]
    layers += [text for label in labels for text in _label_layers(axis, label, x, y)]
    if layers:
        # Dragging moves the figure on a page, the wheel with the shift key enlarges it: alone it
        # scrolls the page.
        select = {"type": "interval", "zoom": "wheel![event.shiftKey]"}
        layers[0] = {**layers[0], "params": [{"name": "zoom", "select": select, "bind": "scales"}]}
    return Figure(title, {"height": _HEIGHT, "layer": layers}, note)


def _rows(axis: Axis, series: Series, points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {
            "x": p.ms,
            "y": axis.value(p),
            "series": series.name,
            "about": lines(_about(p, series.name, axis)),
        }
        for p in points
    ]


def _about(point: Point, series: str, axis: Axis) -> tuple[str, ...]:
    ms = (
        f"{point.ms:.4g} ms"
        if point.ms_error is None
        else f"{point.ms:.4g} ± {point.ms_error:.2g} ms"
    )
    value = f"{point.cost:.2f} points below the largest member"
    if axis.absolute and point.accuracy is not None:
        value = (
            f"{point.accuracy:.2f} %"
            if point.error is None
            else f"{point.accuracy:.2f} ± {point.error:.2f} %"
        )
    return point.label or series, f"{ms}, {value}", *point.about


def _band(axis: Axis, curve: Curve, x: Spec, y: Spec) -> list[Spec]:
    points = curve.points
    if not _has_errors(axis, points):
        return []
    rows = [
        {"x": p.ms, "y": axis.value(p) - (p.error or 0.0), "high": axis.value(p) + (p.error or 0.0)}
        for p in points
    ]
    mark = {
        "type": "area",
        "interpolate": "step-after",
        "fill": clear(curve.series.colour, 0.17),
        "clip": True,
    }
    return [layer(mark, rows, x=x, y=y, y2={"field": "high"})]


def _has_errors(axis: Axis, points: Sequence[Point]) -> bool:
    return axis.absolute and bool(points) and all(p.error is not None for p in points)


def _curve_layers(
    axis: Axis, curve: Curve, channels: Mapping[str, Spec], x: Spec, y: Spec
) -> list[Spec]:
    if not curve.points:
        return []
    rows = _rows(axis, curve.series, curve.points)
    bare = [{key: row[key] for key in ("x", "y", "series")} for row in rows]
    line = {"type": "line", "interpolate": "step-after", "strokeWidth": 1.6, "clip": True}
    # Every member can be pointed at, though many markers are not drawn.
    dot = {
        "type": "point",
        "filled": True,
        "fill": curve.series.colour,
        "size": 16 if len(rows) <= _MANY else 60,
        "opacity": 1 if len(rows) <= _MANY else 0,
        "clip": True,
    }
    return [layer(line, bare, x=x, y=y, stroke=channels["stroke"]), layer(dot, rows, x=x, y=y)]


def _way(axis: Axis, points: Sequence[Point], x: Spec, y: Spec, mark: Spec) -> list[Spec]:
    rows = [{"x": p.ms, "y": axis.value(p)} for p in points]
    return (
        [layer({"type": "line", "clip": True, **mark}, rows, x=x, y=y, order=None)] if rows else []
    )


def _target(ms: float, x: Spec) -> list[Spec]:
    if not isfinite(ms):
        return []
    rule = {
        "type": "rule",
        "stroke": FOUND_COLOUR,
        "strokeDash": [5, 4],
        "strokeWidth": 1.2,
        "clip": True,
    }
    # At the foot of the line, where a front has no members.
    text = {
        "type": "text",
        "align": "left",
        "baseline": "bottom",
        "dx": 4,
        "dy": -3,
        "fill": FOUND_COLOUR,
        "fontSize": 11,
    }
    foot = {"value": _HEIGHT}
    return [
        layer(rule, [{"x": ms}], x=x),
        layer(
            text, [{"x": ms, "text": f"target {ms:.4g} ms"}], x=x, y=foot, text={"field": "text"}
        ),
    ]


def _error_bars(axis: Axis, marks: Marks, x: Spec, y: Spec) -> list[Spec]:
    mark = {
        "type": "rule",
        "stroke": marks.series.colour,
        "strokeWidth": 1.3,
        "opacity": 0.7,
        "clip": True,
    }
    sideways = [
        {"x": p.ms - p.ms_error, "to": p.ms + p.ms_error, "y": axis.value(p)}
        for p in marks.points
        if p.ms_error
    ]
    upward = [
        {"x": p.ms, "y": axis.value(p) - p.error, "to": axis.value(p) + p.error}
        for p in marks.points
        if axis.absolute and p.error
    ]
    bars = [layer(mark, sideways, x=x, x2={"field": "to"}, y=y)] if sideways else []
    return [*bars, layer(mark, upward, x=x, y=y, y2={"field": "to"})] if upward else bars


def _markers(axis: Axis, marks: Marks, channels: Mapping[str, Spec], x: Spec, y: Spec) -> Spec:
    # Filled by default, so that the style's rim is not replaced by the default colour.
    look = {"style": "edge", "filled": True} if marks.edge else {"strokeWidth": 1.6}
    mark = {"type": "point", "size": marks.size, "opacity": 1, "clip": True, **look}
    drawn = {
        name: channel for name, channel in channels.items() if not (marks.edge and name == "stroke")
    }
    return layer(mark, _rows(axis, marks.series, marks.points), x=x, y=y, **drawn)


def _label_layers(axis: Axis, label: Label, x: Spec, y: Spec) -> list[Spec]:
    """Return a label, and below it the same text as a rim that keeps it readable across lines."""
    vertical, horizontal = label.place.split()
    align, dx = _SHIFTS[horizontal]
    baseline, dy = _LIFTS[vertical]
    rows = [{"x": label.point.ms, "y": axis.value(label.point), "text": label.text}]
    look = {
        "type": "text",
        "align": align,
        "baseline": baseline,
        "dx": dx,
        "dy": dy,
        "fontSize": 11.5,
        "clip": True,
        "fontWeight": "bold" if label.colour == FOUND_COLOUR else "normal",
    }
    return [
        layer({**look, "style": "halo"}, rows, x=x, y=y, text={"field": "text"}),
        layer({**look, "fill": label.colour}, rows, x=x, y=y, text={"field": "text"}),
    ]
