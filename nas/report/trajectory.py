"""The picture of a search: latency against expected accuracy, step by step. The data apart from the drawing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from nas.csv_files import read_columns
from nas.report.front import published_members
from nas.report.plane import Axis, Point, axis_of, axis_of_problem, note, note_of, published, save, values_of
from nas.report.sources import Sources
from nas.runs.schema import About
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
        axis: what is upward.
        title, note: what was searched, and where the figures came from.
    """

    points: tuple[Point, ...]
    published: tuple[Point, ...]
    target_ms: float
    axis: Axis
    title: str
    note: str


def trajectory(problem: Problem, found: Found) -> Trajectory:
    """The data of the picture of one search."""
    space, table, scores = problem.space, problem.table, problem.scores
    largest = space.largest()
    # What was evaluated and what the scores add up to are no measure of one another.
    judged = problem.evaluations is not None
    known = None if judged else found.accuracy
    level = None if known is None else known.value + found.cost
    if judged and found.evaluated is not None and found.drop is not None:
        level = found.evaluated + found.drop
    start = Point("", problem.latency.measure.total(largest), scores.cost(largest))
    steps = [Point(step.action, step.ms, step.total_cost) for step in found.trace]
    points = [_at_level(point, level) for point in (start, *steps)]
    points[-1] = _with_error(points[-1], values_of(known)[1], table.predict(found.architecture).standard_error)
    members = () if judged else published(problem)
    return Trajectory(
        points=tuple(points),
        published=members,
        target_ms=problem.target_ms,
        axis=_evaluated_axis(level) if judged else axis_of_problem(problem, (*points, *members)),
        title=f"{space.name} on {table.device.name}: {found.ms:.3g} ms by {_moves(len(found.trace))}",
        note=note(table, scores),
    )


def _at_level(point: Point, level: float | None) -> Point:
    """Return the point with the accuracy that its cost leaves of the largest member's."""
    return point if level is None else replace(point, accuracy=level - point.cost)


def _with_error(point: Point, error: float | None, ms_error: float | None) -> Point:
    return replace(point, error=error, ms_error=ms_error)


def _evaluated_axis(level: float | None) -> Axis:
    """Return the axis of a search that evaluated members."""
    return axis_of((), "") if level is None else Axis("top-1 of the sliced supernet (%)", absolute=True)


def _moves(count: int) -> str:
    return f"{count} move{'' if count == 1 else 's'}"


def read_trajectory(path: Path, about: About, sources: Sources) -> Trajectory | None:
    """The same from a run's `trace.csv`; None where the search took no step.

    Raises:
        InputError: for a damaged file, naming line, column and reason.
    """
    rows = read_columns(path, _NUMBERS, ("action", "move"))
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
    judge, result = about.score_by.judge, about.result
    known = None if judge else result.accuracy
    level = None if known is None else known.value + result.cost
    if judge and result.evaluated is not None and result.drop is not None:
        level = result.evaluated + result.drop
    points = [_at_level(point, level) for point in (start, *steps)]
    points[-1] = _with_error(points[-1], known.standard_error if known else None, result.latency_error)
    members = () if judge else published_members(about, sources)
    axis = axis_of((*points, *members), about.scores.kind, about.scores.metric)
    return Trajectory(
        points=tuple(points),
        published=members,
        target_ms=inf if about.target.latency_ms is None else about.target.latency_ms,
        axis=_evaluated_axis(level) if judge else axis,
        title=f"{about.space.name} on {about.table.device}: {result.latency_ms:.3g} ms by {_moves(len(rows))}",
        note=f"{note_of(about)}\nEvery step evaluated by {judge}." if judge else note_of(about),
    )


def draw(data: Trajectory, path: str | Path) -> None:
    """Write the picture as PNG."""
    end = replace(data.points[-1], label="found")
    save(lambda axes: _draw_steps(axes, data), data.axis, data.points, [end], data.published, data.target_ms,
         data.title, data.note, path)  # fmt: skip


def _draw_steps(axes: Axes, data: Trajectory) -> None:
    value = data.axis.value
    axes.plot([p.ms for p in data.points], [value(p) for p in data.points], color="#999999", linewidth=1, zorder=2)
    for action, (label, colour, marker) in ACTIONS.items():
        points = [point for point in data.points if point.label == action]
        if points:
            x, y = [point.ms for point in points], [value(point) for point in points]
            axes.scatter(x, y, s=22, color=colour, marker=marker, label=label, zorder=3)
    start = data.points[0]
    axes.scatter([start.ms], [value(start)], s=40, color="#333333", marker="D", label="largest member", zorder=3)
