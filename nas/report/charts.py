"""The pictures of a report as plotly figures: plain data that the page's script draws, in light and in dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from nas.report.alpha import Alpha, position_label
from nas.report.breakdown import ROLES, Bar, Breakdown
from nas.report.front import Front
from nas.report.plane import COST, MS, Point
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


@dataclass(frozen=True)
class Chart:
    """A figure as the page's script draws it. `title` says what it shows, `height` is in pixels."""

    title: str
    figure: dict[str, Any]
    height: int = 440


def front_chart(data: Front) -> Chart:
    """The front, what was found, and the published members."""
    figure = _figure()
    _add_front(figure, data.points, "Pareto front", SERIES[0])
    _add_published(figure, data.published)
    _points(figure, data.found, "found", _FOUND, "circle-open", 15, width=3)
    _target(figure, data.target_ms)
    return Chart(data.title, _plane(figure))


def fronts_chart(runs: Sequence[tuple[str, Front]]) -> Chart:
    """The fronts of several runs, by name, with what each of them found."""
    figure = _figure()
    for index, (name, front) in enumerate(runs):
        colour = SERIES[index % len(SERIES)]
        _add_front(figure, front.points, name, colour, group=name)
        found = [Point(name, p.ms, p.cost, p.about) for p in front.found]
        _points(figure, found, f"{name}: found", colour, "circle-open", 15, width=3, group=name,
                legend=not front.points)  # fmt: skip
        _points(figure, [Point(f"{name}: {p.label}", p.ms, p.cost, p.about) for p in front.published],
                f"{name}: published", colour, "star", 11, group=name, legend=False)  # fmt: skip
    return Chart("Fronts (lines), found members (rings) and published members (stars)", _plane(figure))


def trajectory_chart(data: Trajectory) -> Chart:
    """Every step of a search from the largest member to the found one."""
    figure = _figure()
    figure.add_scatter(x=[p.ms for p in data.points], y=[p.cost for p in data.points], mode="lines", hoverinfo="skip",
                       line={"color": _GREY, "width": 1}, showlegend=False)  # fmt: skip
    _points(figure, data.points[:1], "largest member", _GREY, "diamond", 10)
    for action, (label, colour, symbol) in STEPS.items():
        _points(figure, [p for p in data.points if p.label == action], label, colour, symbol, 8)
    _points(figure, data.points[-1:], "found", _FOUND, "circle-open", 15, width=3)
    _add_published(figure, data.published)
    _target(figure, data.target_ms)
    return Chart(data.title, _plane(figure))


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


def _add_front(figure: Figure, points: Sequence[Point], name: str, colour: str, group: str | None = None) -> None:
    if points:
        figure.add_scatter(
            x=[p.ms for p in points], y=[p.cost for p in points], mode="lines+markers", name=_plain(name),
            line={"shape": "hv", "width": 1.2, "color": colour}, marker={"size": 6, "color": colour},
            hoverinfo="text", hovertext=[_hover(_lines(p, name)) for p in points], legendgroup=group,
        )  # fmt: skip


def _add_published(figure: Figure, points: Sequence[Point]) -> None:
    _points(figure, points, "published", _PUBLISHED, "star", 12, texts=True)


def _points(
    figure: Figure, points: Sequence[Point], name: str, colour: str, symbol: str, size: int, *, width: float = 0,
    texts: bool = False, group: str | None = None, legend: bool = True,
) -> None:  # fmt: skip
    """Markers, with their labels beside them where `texts` says so."""
    if points:
        figure.add_scatter(
            x=[p.ms for p in points], y=[p.cost for p in points], mode="markers+text" if texts else "markers",
            name=_plain(name), text=[_plain(p.label) for p in points] if texts else None, textposition="middle right",
            textfont={"color": colour, "size": 12}, hoverinfo="text", legendgroup=group, showlegend=legend,
            hovertext=[_hover(_lines(p, name)) for p in points],
            marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": width, "color": colour}},
        )  # fmt: skip


def _lines(point: Point, series: str) -> tuple[str, ...]:
    name = point.label if point.label and point.label not in STEPS else series
    return name, f"{point.ms:.4g} ms, drop {point.cost:+.3f} points", *point.about


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
        figure.add_annotation(x=ms, y=1, yref="paper", text=f"target {ms:.4g} ms", showarrow=False, xanchor="left",
                              yanchor="bottom", font={"color": _FOUND, "size": 11})  # fmt: skip


def _plane(figure: Figure) -> dict[str, Any]:
    figure.update_xaxes(title_text=MS)
    figure.update_yaxes(title_text=COST)
    return _finished(figure)


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
