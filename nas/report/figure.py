"""Figure of networks by predicted latency and expected accuracy: fronts, markers and labels.

`nas.report.front` and `nas.report.trajectory` call `plane`. Up is better on every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from nas.figures import Figure, Series, Spec, clear, layer, lines, series_encoding, x_axis, y_axis
from nas.report.labels import FOUND_COLOUR, GREY, PUBLISHED_COLOUR, Label, View
from nas.report.points import Axis, Point

MS = "predicted latency (ms)"
"""Title of the x axis."""

FOUND = Series("found", FOUND_COLOUR)
STAR = "M0,-1L0.24,-0.32L0.95,-0.31L0.38,0.12L0.59,0.81L0,0.4L-0.59,0.81L-0.38,0.12L-0.95,-0.31L-0.24,-0.32Z"
"""A star as an SVG path: Vega has no such symbol."""
PUBLISHED = Series("published", PUBLISHED_COLOUR, STAR)

_HEIGHT = 430
"""Height of the figure in pixels."""
_SHIFTS = {"left": ("right", -9), "center": ("center", 0), "right": ("left", 9)}
_LIFTS = {"top": ("bottom", -7), "middle": ("middle", 0), "bottom": ("top", 7)}
"""Text alignment and shift in pixels, by the position of a label relative to its point."""
_MANY = 60
"""Maximum number of members of a front with visible markers; more would hide the line."""


@dataclass(frozen=True)
class Curve:
    """A front: its members joined by steps, in a band of one standard error where that is known.

    Attributes:
        band: name of the band in the legend; empty for no entry.
    """

    series: Series
    points: Sequence[Point]
    band: str = ""


@dataclass(frozen=True)
class Marks:
    """Members of one series as markers.

    Attributes:
        size: area of a marker in square pixels.
        bars: whether error bars of one standard error are drawn.
        edge: whether markers have a rim in the page's colour.
    """

    series: Series
    points: Sequence[Point]
    size: int = 70
    bars: bool = False
    edge: bool = False


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
        frame: the range to show; None shows all points.
        marks: members as markers, drawn above the curves.
        curves: fronts.
        way: points that a thin line joins in their order.
        dotted: points that a dotted line joins, such as a prediction and its measurement.
        target_ms: latency target, drawn as a dashed line where it is finite.
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
        # Dragging moves the figure on a page. Zooming takes the shift key, because the wheel alone
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
    # Markers of a long front are invisible but still show their tooltips.
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
    # At the lower end of the line, where a front has no members.
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
