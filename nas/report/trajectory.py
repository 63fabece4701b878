"""The picture of a search: latency against predicted accuracy cost, step by step. The data apart from the drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from nas.files import replacing
from nas.latency import LatencyTable
from nas.search import Found, Problem, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACTIONS = {
    "DR": ("DR: drop a block", "#0072b2", "o"),
    "WR": ("WR: narrow a stage", "#e69f00", "s"),
    "MR": ("MR: attention to local", "#009e73", "^"),
    "ER": ("ER: smaller expansion", "#56b4e9", "v"),
    "AR": ("AR: other activation", "#f0e442", "P"),
    "BR": ("BR: other block", "#8c564b", "X"),
}
"""Label, colour and marker; the colours keep apart for colour-blind readers, the markers in grey print."""


@dataclass(frozen=True)
class Point:
    """A network by its predicted latency and its expected accuracy drop against the space's largest member."""

    label: str
    ms: float
    cost: float


@dataclass(frozen=True)
class Trajectory:
    """What the picture shows.

    Attributes:
        points: the largest member, labelled "", then the outcome of every step, labelled with its action.
        published: the published members.
        target_ms: where the search was to get.
        title, note: what was searched, and where the figures came from.
    """

    points: tuple[Point, ...]
    published: tuple[Point, ...]
    target_ms: float
    title: str
    note: str


def trajectory(problem: Problem, found: Found) -> Trajectory:
    """The data of the picture of one search."""
    space, table, scores = problem.space, problem.table, problem.scores
    largest = space.largest()
    steps = (Point(step.action, step.ms, step.total_cost) for step in found.trace)
    return Trajectory(
        points=(Point("", problem.latency.measure.total(largest), scores.cost(largest)), *steps),
        published=published(problem),
        target_ms=problem.target_ms,
        title=f"{space.name} on {table.device.name}: {found.ms:.3g} ms in {len(found.trace)} steps",
        note=note(table, scores),
    )


def published(problem: Problem) -> tuple[Point, ...]:
    """The published members of a problem's space."""
    prefix, ms, cost = f"{problem.space.name}_", problem.latency.measure.total, problem.scores.cost
    return tuple(Point(name.removeprefix(prefix), ms(a), cost(a)) for name, a in problem.space.published.items())


def note(table: LatencyTable, scores: Scores) -> str:
    """Where the figures of a picture came from."""
    error = "" if table.expected_error is None else f", expected error {table.expected_error:.1f} %"
    device = f"{table.device.soc}, {table.device.os}, {table.device.runtime} {table.device.runtime_version}"
    return f"Latency: {table.provenance} table, {device}{error}.\nAccuracy cost: {scores.provenance}."


def draw(data: Trajectory, path: str | Path) -> None:
    """Writes the picture as PNG."""
    save(lambda axes: _draw_steps(axes, data), data.published, data.target_ms, data.title, data.note, path)


def save(
    draw: Callable[[Axes], None], published: Sequence[Point], target_ms: float, title: str, note: str, path: str | Path
) -> None:
    """Writes as PNG what `draw` draws, with the published members, the target (where there is one) and the labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    _draw_published(axes, published)
    if isfinite(target_ms):
        axes.axvline(target_ms, color="#cc3311", linestyle="--", linewidth=1.2, label=f"target {target_ms:.3g} ms")
    axes.set(
        xlabel="predicted latency (ms)", ylabel="expected accuracy drop (points of top-1)\nagainst the largest member"
    )
    axes.margins(y=0.1)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8.5, title=title, title_fontsize=12)
    figure.supxlabel(_wrapped(note), fontsize=7.5, color="#555555", x=0.01, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_steps(axes: Axes, data: Trajectory) -> None:
    axes.plot([p.ms for p in data.points], [p.cost for p in data.points], color="#999999", linewidth=1, zorder=2)
    for action, (label, colour, marker) in _ACTIONS.items():
        points = [point for point in data.points if point.label == action]
        if points:
            x, y = [point.ms for point in points], [point.cost for point in points]
            axes.scatter(x, y, s=22, color=colour, marker=marker, label=label, zorder=3)
    start, end = data.points[0], data.points[-1]
    axes.scatter([start.ms], [start.cost], s=40, color="#333333", marker="D", label="largest member", zorder=3)
    axes.scatter([end.ms], [end.cost], s=120, facecolors="none", edgecolors="#cc3311", linewidths=1.6, label="found",
                 zorder=4)  # fmt: skip


def _draw_published(axes: Axes, published: Sequence[Point]) -> None:
    if published:
        x, y = [point.ms for point in published], [point.cost for point in published]
        axes.scatter(x, y, s=90, color="#aa4499", marker="*", label="published members", zorder=4)
    for point in published:
        axes.annotate(point.label, (point.ms, point.cost), xytext=(7, 5), textcoords="offset points", fontsize=8.5,
                      color="#aa4499")  # fmt: skip


def _wrapped(text: str, width: int = 118) -> str:
    import textwrap

    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in text.splitlines())
