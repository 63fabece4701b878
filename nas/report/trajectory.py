"""The picture of a search: latency against predicted accuracy cost, step by step. The data apart from the drawing."""

from __future__ import annotations

from dataclasses import dataclass
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
        points=(Point("", table.total_ms(largest), scores.cost(largest)), *steps),
        published=tuple(
            Point(name.removeprefix(f"{space.name}_"), table.total_ms(a), scores.cost(a))
            for name, a in space.published.items()
        ),
        target_ms=problem.target_ms,
        title=f"{space.name} on {table.device.name}: {found.ms:.3g} ms in {len(found.trace)} steps",
        note=_note(table, scores),
    )


def _note(table: LatencyTable, scores: Scores) -> str:
    error = "" if table.expected_error is None else f", expected error {table.expected_error:.1f} %"
    device = f"{table.device.soc}, {table.device.os}, {table.device.runtime} {table.device.runtime_version}"
    return f"Latency: {table.provenance} table, {device}{error}.\nAccuracy cost: {scores.provenance}."


def draw(data: Trajectory, path: str | Path) -> None:
    """Writes the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_steps(axes, data)
    _draw_published(axes, data)
    axes.axvline(
        data.target_ms, color="#cc3311", linestyle="--", linewidth=1.2, label=f"target {data.target_ms:.3g} ms"
    )
    axes.set(
        xlabel="predicted latency (ms)", ylabel="expected accuracy drop (points of top-1)\nagainst the largest member"
    )
    axes.margins(y=0.1)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8.5, title=data.title, title_fontsize=12)
    figure.supxlabel(_wrapped(data.note), fontsize=7.5, color="#555555", x=0.01, ha="left")
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


def _draw_published(axes: Axes, data: Trajectory) -> None:
    if data.published:
        x, y = [point.ms for point in data.published], [point.cost for point in data.published]
        axes.scatter(x, y, s=90, color="#aa4499", marker="*", label="published members", zorder=4)
    for point in data.published:
        axes.annotate(point.label, (point.ms, point.cost), xytext=(7, 5), textcoords="offset points", fontsize=8.5,
                      color="#aa4499")  # fmt: skip


def _wrapped(text: str, width: int = 118) -> str:
    import textwrap

    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in text.splitlines())
