"""The picture of a search: latency against predicted accuracy cost, step by step. The data apart from the drawing."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from nas.report.plane import Point, note, note_of, published, save
from nas.report.reading import About, read_csv
from nas.report.sources import Sources
from nas.search import Found, Problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACTIONS = {
    "DR": ("DR: drop a block", "#0072b2", "o"),
    "WR": ("WR: narrow a stage", "#e69f00", "s"),
    "MR": ("MR: attention to local", "#009e73", "^"),
    "ER": ("ER: smaller expansion", "#56b4e9", "v"),
    "AR": ("AR: other activation", "#f0e442", "P"),
    "BR": ("BR: other block", "#8c564b", "X"),
    "UN": ("UN: a reduction undone", "#cc79a7", "*"),
}
"""Label, colour and marker; the colours keep apart for colour-blind readers, the markers in grey print."""

_NUMBERS = ("step", "ms", "saved_ms", "cost", "total_cost", "macs", "params")


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


def read_trajectory(path: Path, about: About, sources: Sources) -> Trajectory | None:
    """The same from a run's `trace.csv`; None where the search took no step.

    Raises:
        InputError: for a damaged file, naming line, column and reason.
    """
    rows = read_csv(path, _NUMBERS, ("action", "move"))
    if not rows:
        return None
    first = rows[0]
    start = Point("", first["ms"] + first["saved_ms"], first["total_cost"] - first["cost"], ("the largest member",))
    steps = (
        Point(row["action"], row["ms"], row["total_cost"], (
            f"step {row['step']:.0f}: {row['move']}",
            f"saves {row['saved_ms']:.4g} ms for {row['cost']:+.3g} points",
            f"{row['params'] / 1e6:.2f} M parameters, {row['macs'] / 1e9:.3f} G MACs",
        ))
        for row in rows
    )  # fmt: skip
    judge = about.score_by.judge
    return Trajectory(
        points=(start, *steps),
        # What was evaluated and what the scores add up to are no measure of one another.
        published=published(sources.problem) if sources.problem and not judge else (),
        target_ms=inf if about.target.latency_ms is None else about.target.latency_ms,
        title=f"{about.space.name} on {about.table.device}: {about.result.latency_ms:.3g} ms in {len(rows)} steps",
        note=f"{note_of(about)}\nEvery step judged by {judge}." if judge else note_of(about),
    )


def draw(data: Trajectory, path: str | Path) -> None:
    """Writes the picture as PNG."""
    save(lambda axes: _draw_steps(axes, data), data.published, data.target_ms, data.title, data.note, path)


def _draw_steps(axes: Axes, data: Trajectory) -> None:
    axes.plot([p.ms for p in data.points], [p.cost for p in data.points], color="#999999", linewidth=1, zorder=2)
    for action, (label, colour, marker) in ACTIONS.items():
        points = [point for point in data.points if point.label == action]
        if points:
            x, y = [point.ms for point in points], [point.cost for point in points]
            axes.scatter(x, y, s=22, color=colour, marker=marker, label=label, zorder=3)
    start, end = data.points[0], data.points[-1]
    axes.scatter([start.ms], [start.cost], s=40, color="#333333", marker="D", label="largest member", zorder=3)
    axes.scatter([end.ms], [end.cost], s=120, facecolors="none", edgecolors="#cc3311", linewidths=1.6, label="found",
                 zorder=4)  # fmt: skip
