"""Networks by predicted latency and expected accuracy drop: the points that several pictures show, and their frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.latency import LatencyTable
from nas.report.pictures import figure_of, plain, write_picture
from nas.report.reading import About
from nas.search import Problem, Scores
from nas.search.run import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MS = "predicted latency (ms)"
COST = "expected accuracy drop (points of top-1)"


@dataclass(frozen=True)
class Point:
    """A network by its predicted latency and its expected accuracy drop against the space's largest member.

    `about` are further lines on it, for readers who ask.
    """

    label: str
    ms: float
    cost: float
    about: tuple[str, ...] = ()


def published(problem: Problem) -> tuple[Point, ...]:
    """The published members of a problem's space that its device can run."""
    prefix, ms, cost = f"{problem.space.name}_", problem.latency.measure.total, problem.scores.cost
    return tuple(
        Point(name.removeprefix(prefix), ms(arch), cost(arch), shape_lines(summary(problem.space, arch)))
        for name, arch in problem.space.published.items() if isfinite(ms(arch))
    )  # fmt: skip


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
    return f"Latency: {provenance} table, {soc}, {os}, {runtime}{error}.\nAccuracy cost: {scores}."


def save(
    draw: Callable[[Axes], None], published: Sequence[Point], target_ms: float, title: str, note: str, path: str | Path
) -> None:
    """Writes as PNG what `draw` draws, with the published members, the target (where there is one) and the labels."""
    figure, axes = figure_of(8.0, 5.4)
    draw(axes)
    _draw_published(axes, published)
    if isfinite(target_ms):
        axes.axvline(target_ms, color="#cc3311", linestyle="--", linewidth=1.2, label=f"target {target_ms:.3g} ms")
    axes.set(xlabel=MS, ylabel=f"{COST}\nagainst the largest member")
    axes.margins(y=0.1)
    write_picture(figure, title, note, path)


def _draw_published(axes: Axes, published: Sequence[Point]) -> None:
    if published:
        x, y = [point.ms for point in published], [point.cost for point in published]
        axes.scatter(x, y, s=90, color="#aa4499", marker="*", label="published members", zorder=4)
    for point in published:
        axes.annotate(plain(point.label), (point.ms, point.cost), xytext=(7, 5), textcoords="offset points",
                      fontsize=8.5, color="#aa4499")  # fmt: skip
