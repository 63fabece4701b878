"""The pictures of a report as plotly figures: plain data that the page's script draws, in light and in dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from nas.report.alpha import Alpha, position_label
from nas.report.breakdown import ROLES, Bar, Breakdown
from nas.report.front import Front, shared_axis
from nas.report.plane import FOUND_PLACES, MS, PUBLISHED_PLACES, Axis, Point, View, label_places, labelled, view
from nas.report.training import Fit
from nas.report.trajectory import Trajectory

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SERIES = ("#2f86c6", "#cf7a22", "#1a9e77", "#b0509a", "#948c35", "#c8503c", "#7f8c9a")
"""Colours of runs side by side; they stand out on white and on black."""

STEPS = {
    "DR": ("DR: drop a block", SERIES[0], "circle"),
    "WR": ("WR: narrow a stage", SERIES[1], "square"),
    "MR": ("MR: attention to local", SERIES[2], "triangle-up"),
    "ER": ("ER: smaller expansion", "#9c6b3f", "triangle-down"),
    "AR": ("AR: other activation", SERIES[4], "cross"),
    "BR": ("BR: other block", SERIES[6], "x"),
    "UN": ("UN: a reduction undone", SERIES[5], "star"),
}

_FOUND, _PUBLISHED, _GREY = "#e03131", "#b0509a", "#8a8f98"

_LETTERS = (120.0, 22.0)
"""Letters across and lines up that a chart of usual size holds, for labels that keep clear of one another."""


@dataclass(frozen=True)
class Chart:
    """A figure as the page's script draws it. `title` says what it shows, `height` is in pixels."""

    title: str
    figure: dict[str, Any]
    height: int = 440


def front_chart(data: Front, measured: Point | None = None) -> Chart:
    """The front with its standard error, what was found, and the published members.

    `measured` is what was found with what was measured of it.
    """
    figure = _figure()
    marked = (*data.found, *data.published, *([measured] if measured else []))
    frame = view(data.axis, data.points, marked, data.target_ms)
    places = _places(data.axis, data.found, data.published, frame, measured)
    _add_band(figure, data.axis, data.points, SERIES[0], "± 1 standard error")
    _add_front(figure, data.axis, data.points, "Pareto front", SERIES[0])
    _add_published(figure, data.axis, data.published, places)
    for point in data.found[1:]:
        _points(figure, data.axis, [point], point.label, _GREY, "square-open", 11, width=2)
    if measured:
        _add_measured(figure, data.axis, data.found[0], measured)
    _add_found(figure, data.axis, data.found[:1], places)
    _target(figure, data.target_ms)
    return Chart(data.title, _plane(figure, data.axis, frame))


def fronts_chart(runs: Sequence[tuple[str, Front]]) -> Chart:
    """The fronts of several runs, by name, with what each of them found."""
    figure = _figure()
    axis = shared_axis([front for _, front in runs])
    for index, (name, front) in enumerate(runs):
        colour = SERIES[index % len(SERIES)]
        _add_band(figure, axis, front.points, colour, group=name)
        _add_front(figure, axis, front.points, name, colour, group=name)
        named = [replace(p, label=f"{name}: {p.label}") for p in front.published]
        _points(figure, axis, named, f"{name}: published", colour, "star", 11, group=name, legend=False)
        found = [replace(p, label=name) for p in front.found[:1]]
        _points(figure, axis, found, f"{name}: found", colour, "circle", 14, width=2, group=name, line="white",
                legend=not front.points, bars=True)  # fmt: skip
    curve = [point for _, front in runs for point in front.points]
    marked = [point for _, front in runs for point in (*front.found, *front.published)]
    frame = view(axis, curve, marked, inf)
    return Chart("Fronts (lines), found members (discs) and published members (stars)", _plane(figure, axis, frame))


def trajectory_chart(data: Trajectory) -> Chart:
    """Every step of a search from the largest member to the found one."""
    figure = _figure()
    axis = data.axis
    end = replace(data.points[-1], label="found")
    frame = view(axis, data.points, (end, *data.published), data.target_ms)
    places = _places(axis, [end], data.published, frame)
    figure.add_scatter(x=[p.ms for p in data.points], y=[axis.value(p) for p in data.points], mode="lines",
                       hoverinfo="skip", line={"color": _GREY, "width": 1}, showlegend=False)  # fmt: skip
    _points(figure, axis, data.points[:1], "largest member", _GREY, "diamond", 10)
    for action, (name, colour, symbol) in STEPS.items():
        _points(figure, axis, [p for p in data.points if p.label == action], name, colour, symbol, 8)
    _add_published(figure, axis, data.published, places)
    _add_found(figure, axis, [end], places)
    _target(figure, data.target_ms)
    return Chart(data.title, _plane(figure, axis, frame))


def breakdown_chart(data: Breakdown) -> Chart:
    """A bar an operation, as predicted, and a diamond where it was measured."""
    figure = _figure()
    for role, (label, colour) in ROLES.items():
        rows = [i for i, bar in enumerate(data.bars) if bar.role == role and bar.predicted_ms is not None]
        if rows:
            figure.add_bar(
                x=[data.bars[i].predicted_ms for i in rows], y=rows, orientation="h", width=0.76, name=label,
                marker_color=colour, hoverinfo="text",
                hovertext=[_hover(_bar_lines(data.bars[i], data.predicted_ms)) for i in rows],
            )  # fmt: skip
    rows = [i for i, bar in enumerate(data.bars) if bar.measured_ms is not None]
    if rows:
        figure.add_scatter(
            x=[data.bars[i].measured_ms for i in rows], y=rows, mode="markers", name="measured", hoverinfo="text",
            marker={"color": _FOUND, "symbol": "diamond-open", "size": 9, "line": {"width": 2}},
            hovertext=[_hover(_bar_lines(data.bars[i], data.predicted_ms)) for i in rows],
        )  # fmt: skip
    figure.update_xaxes(title_text="ms", rangemode="tozero")
    figure.update_yaxes(tickvals=list(range(len(data.bars))), ticktext=[_plain(bar.name) for bar in data.bars],
                        range=[len(data.bars) - 0.4, -0.6], showgrid=False, tickfont_size=11)  # fmt: skip
    figure.update_layout(barmode="overlay")
    return Chart(data.title, _finished(figure), 150 + 18 * len(data.bars))


def alpha_charts(data: Alpha) -> tuple[Chart, ...]:
    """How strongly every position prefers its block over identity, and attention over its local block."""
    every = range(len(data.positions))
    kept = _heatmap(data, every, data.kept, data.kept_ends, ("#c8503c", "#2f86c6"))
    charts = [
        Chart(
            "Alpha over training: prefers its block (blue) or identity (red), log2 of the ratio",
            kept,
            170 + 14 * len(data.positions),
        )
    ]
    if data.mixed:
        share = _heatmap(data, data.mixed, data.attention, data.attention_ends, ("#2f86c6", "#cf7a22"))
        charts.append(
            Chart(
                "Alpha over training: prefers attention (orange) or its local block (blue), share of attention",
                share,
                170 + 14 * len(data.mixed),
            )
        )
    return tuple(charts)


def fits_chart(fits: Sequence[Fit]) -> Chart:
    """The training accuracy of each fine-tuning, and what it came to."""
    figure = _figure()
    for index, fit in enumerate(fits):
        colour = SERIES[index % len(SERIES)]
        figure.add_scatter(
            x=fit.epochs, y=fit.accuracy, mode="lines+markers" if len(fit.epochs) < 30 else "lines",
            name=_plain(fit.name), line={"color": colour}, hoverinfo="text", legendgroup=fit.name,
            hovertext=[
                _hover((f"{fit.name}, epoch {epoch:.2f}", f"{accuracy:.2f} % of training images", f"loss {loss:.4g}"))
                for epoch, accuracy, loss in zip(fit.epochs, fit.accuracy, fit.loss, strict=True)
            ],
        )  # fmt: skip
        end = max(fit.epochs, default=0.0)
        if fit.best:
            figure.add_scatter(
                x=[end], y=[fit.best.accuracy], mode="markers", name=_plain(f"{fit.name}: result"), hoverinfo="text",
                marker={"color": colour, "symbol": "star", "size": 13}, legendgroup=fit.name,
                hovertext=[_hover((fit.name, f"{fit.best.accuracy:.2f} % on {fit.best.images} {fit.best.part}"))],
            )  # fmt: skip
    figure.update_xaxes(title_text="epoch", rangemode="tozero")
    figure.update_yaxes(title_text="accuracy (%)")
    return Chart("Accuracy over the fine-tuning", _finished(figure), 380)


def _figure() -> Figure:
    from plotly.graph_objects import Figure

    return Figure(layout={"template": "none"})


def _places(
    axis: Axis, found: Sequence[Point], published: Sequence[Point], frame: View | None, measured: Point | None = None
) -> dict[Point, str]:
    """Return where the label of each found and published member stands; a measurement has a marker only."""
    if frame is None:
        return {}
    texts = [*((p, labelled(p, axis), FOUND_PLACES) for p in found[:1]),
             *((p, labelled(p, axis), PUBLISHED_PLACES) for p in published)]  # fmt: skip
    texts += [(measured, "", PUBLISHED_PLACES)] if measured else []
    return dict(zip([p for p, *_ in texts], label_places(axis, texts, frame, _LETTERS), strict=True))


def _add_front(
    figure: Figure, axis: Axis, points: Sequence[Point], name: str, colour: str, group: str | None = None
) -> None:
    if points:
        figure.add_scatter(
            x=[p.ms for p in points], y=[axis.value(p) for p in points], name=_plain(name), legendgroup=group,
            # Markers of hundreds of members would hide the line; pointing at it shows each of them all the same.
            mode="lines+markers" if len(points) <= 60 else "lines", marker={"size": 5, "color": colour},
            line={"shape": "hv", "width": 1.6, "color": colour},
            hoverinfo="text", hovertext=[_hover(_lines(p, name, axis)) for p in points],
        )  # fmt: skip


def _add_band(
    figure: Figure, axis: Axis, points: Sequence[Point], colour: str, name: str = "", group: str | None = None
) -> None:
    """One standard error around a front, where its errors are known."""
    if not axis.absolute or not points or any(p.error is None for p in points):
        return
    for sign in (-1, 1):
        figure.add_scatter(
            x=[p.ms for p in points], y=[axis.value(p) + sign * (p.error or 0.0) for p in points], mode="lines",
            line={"shape": "hv", "width": 0}, hoverinfo="skip", legendgroup=group, name=name,
            fill="tonexty" if sign > 0 else None, fillcolor=_clear(colour, 0.18),
            showlegend=bool(name) and sign > 0,
        )  # fmt: skip


def _add_published(figure: Figure, axis: Axis, points: Sequence[Point], places: Mapping[Point, str]) -> None:
    _points(figure, axis, points, "published", _PUBLISHED, "star", 12, places=places, bars=True)


def _add_found(figure: Figure, axis: Axis, points: Sequence[Point], places: Mapping[Point, str]) -> None:
    _points(figure, axis, points, "found", _FOUND, "circle", 15, width=2, line="white", places=places, bars=True)


def _add_measured(figure: Figure, axis: Axis, found: Point, measured: Point) -> None:
    """A measurement, joined with its prediction."""
    figure.add_scatter(
        x=[found.ms, measured.ms], y=[axis.value(found), axis.value(measured)], mode="lines", hoverinfo="skip",
        line={"color": _FOUND, "width": 1, "dash": "dot"}, showlegend=False,
    )  # fmt: skip
    _points(figure, axis, [measured], "found, measured", _FOUND, "diamond-open", 12, width=2, bars=True)


def _points(
    figure: Figure, axis: Axis, points: Sequence[Point], name: str, colour: str, symbol: str, size: int, *,
    width: float = 0, line: str = "", places: Mapping[Point, str] | None = None, bars: bool = False,
    group: str | None = None, legend: bool = True,
) -> None:  # fmt: skip
    """Markers; with their labels at their places where there are some, and with their errors where `bars` says so."""
    if not points:
        return
    texts = [_plain(labelled(p, axis)) for p in points] if places else None
    figure.add_scatter(
        x=[p.ms for p in points], y=[axis.value(p) for p in points], mode="markers+text" if texts else "markers",
        name=_plain(name), text=texts, hoverinfo="text", legendgroup=group, showlegend=legend,
        textposition=[places.get(p, "bottom right") for p in points] if places else None,
        textfont={"color": colour, "size": 13 if name == "found" else 12}, cliponaxis=not texts,
        error_y=_error([p.error for p in points], colour) if bars and axis.absolute else None,
        error_x=_error([p.ms_error for p in points], colour) if bars else None,
        hovertext=[_hover(_lines(p, name, axis)) for p in points],
        marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": width, "color": line or colour}},
    )  # fmt: skip


def _error(errors: Sequence[float | None], colour: str) -> dict[str, Any] | None:
    if not any(errors):
        return None
    return {"type": "data", "array": [error or 0.0 for error in errors], "color": _clear(colour, 0.7), "thickness": 1.2,
            "width": 3}  # fmt: skip


def _clear(colour: str, share: float) -> str:
    """Return a colour of #rrggbb that lets the background through."""
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{share})"


def _lines(point: Point, series: str, axis: Axis) -> tuple[str, ...]:
    name = point.label if point.label and point.label not in STEPS else series
    ms = f"{point.ms:.4g} ms" if point.ms_error is None else f"{point.ms:.4g} ± {point.ms_error:.2g} ms"
    worth = f"{point.cost:.2f} points below the largest member"
    if axis.absolute and point.accuracy is not None:
        worth = f"{point.accuracy:.2f} %" if point.error is None else f"{point.accuracy:.2f} ± {point.error:.2f} %"
    return name, f"{ms}, {worth}", *point.about


def _bar_lines(bar: Bar, total: float | None) -> tuple[str, ...]:
    share = f", {100 * bar.predicted_ms / total:.1f} %" if bar.predicted_ms is not None and total else ""
    predicted = [f"predicted {bar.predicted_ms:.4g} ms{share}"] if bar.predicted_ms is not None else []
    measured = [f"measured {bar.measured_ms:.4g} ms"] if bar.measured_ms is not None else []
    about = [line for line in (bar.shape, bar.provenance and f"row: {bar.provenance}") if line]
    return f"{bar.name}: {bar.kind}", *predicted, *measured, *about


def _heatmap(
    data: Alpha, rows: Sequence[int], values: Sequence[Sequence[float | None]], ends: tuple[float, float],
    colours: tuple[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Cells of some of the positions. What lies between both ends is clear, whatever the background."""
    figure = _figure()
    scale = [[0.0, colours[0]], [0.5, "rgba(128,128,128,0.06)"], [1.0, colours[1]]]
    figure.add_heatmap(
        x=data.steps, y=list(range(len(rows))), z=[values[row] for row in rows], zmin=ends[0], zmax=ends[1],
        colorscale=scale, hoverinfo="text",
        hovertext=[[_hover((data.positions[row], f"step {step}", words))
                    for step, words in zip(data.steps, data.shares[row], strict=True)] for row in rows],
        colorbar={"orientation": "h", "y": 1.0, "yanchor": "bottom", "thickness": 9, "len": 0.9, "ypad": 4},
    )  # fmt: skip
    labels = [_plain(position_label(data.positions[row], data.dropped)) for row in rows]
    figure.update_xaxes(title_text="step of the supernet's training", showgrid=False)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=labels, autorange="reversed", showgrid=False,
                        tickfont_size=10, title_text="stage.block")  # fmt: skip
    return _finished(figure)


def _target(figure: Figure, ms: float) -> None:
    if isfinite(ms):
        figure.add_vline(x=ms, line={"color": _FOUND, "dash": "dash", "width": 1.2})
        # At the foot of the line: above the plot stands the legend.
        figure.add_annotation(x=ms, y=0, yref="paper", text=f"target {ms:.4g} ms", showarrow=False, xanchor="left",
                              yanchor="bottom", font={"color": _FOUND, "size": 11})  # fmt: skip


def _plane(figure: Figure, axis: Axis, frame: View | None) -> dict[str, Any]:
    figure.update_xaxes(title_text=MS)
    figure.update_yaxes(title_text=axis.label, autorange=True if axis.absolute else "reversed")
    if frame:
        figure.update_xaxes(autorangeoptions=_ends(frame.left, frame.right))
        figure.update_yaxes(autorangeoptions=_ends(frame.bottom, frame.top))
    return _finished(figure)


def _ends(one: float, other: float) -> dict[str, Any]:
    """Return what makes an axis end at these values. With a fixed range, a tap on a phone would show no member."""
    low, high = sorted((one, other))
    return {"include": [low, high], "minallowed": low, "maxallowed": high}


def _finished(figure: Figure) -> dict[str, Any]:
    """Plain data of a figure that fits its frame."""
    figure.update_layout(
        margin={"l": 8, "r": 8, "t": 8, "b": 8}, hovermode="closest",
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    document: dict[str, Any] = json.loads(str(figure.to_json()))
    return document


def _hover(lines: Iterable[str]) -> str:
    return "<br>".join(map(_plain, lines))


def _plain(text: str) -> str:
    """The text as it is: plotly takes some HTML, and what comes from a file is none."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
