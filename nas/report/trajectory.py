"""Figure of a search's steps in latency and expected accuracy: its data, then its drawing.

`nas search` draws it from its result, `nas report` from a run's trace.csv.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from nas.csv_files import read_columns
from nas.figures import Figure, Series
from nas.report.figure import FOUND, PUBLISHED, STAR, Marks, plane
from nas.report.front import published_members
from nas.report.labels import COLOURS, GREY, place_labels, view
from nas.report.points import (
    Axis,
    Point,
    axis_of,
    axis_of_problem,
    note,
    note_of,
    published,
    values_of,
)
from nas.report.sources import Sources
from nas.runs.schema import About
from nas.search import Found, Problem
from nas.tasks import metric_words

ACTIONS = {
    "DR": Series("DR: drop a block", COLOURS[0], "circle"),
    "WR": Series("WR: narrow a stage", COLOURS[1], "square"),
    "MR": Series("MR: attention to local", COLOURS[2], "triangle-up"),
    "ER": Series("ER: smaller expansion", "#9c6b3f", "triangle-down"),
    "AR": Series("AR: other activation", COLOURS[4], "cross"),
    "BR": Series("BR: other block", COLOURS[6], "triangle-right"),
    "UN": Series("UN: a reduction undone", COLOURS[5], STAR),
}
"""Style of each action. Colours differ for colour-blind readers, markers in greyscale print."""

_NUMBERS = ("step", "ms", "saved_ms", "cost", "total_cost", "macs", "params")


@dataclass(frozen=True)
class Trajectory:
    """The data of the figure.

    Attributes:
        points: the largest member, labelled "", then the outcome of every step, labelled with its
            action.
        published: the published members.
        target_ms: the latency target; infinite where there was none.
        axis: the vertical axis.
        title: of the figure: space, device, latency and number of moves.
        note: the sources of latencies and accuracies.
    """

    points: tuple[Point, ...]
    published: tuple[Point, ...]
    target_ms: float
    axis: Axis
    title: str
    note: str


def trajectory(problem: Problem, found: Found) -> Trajectory:
    """Return the data of the figure of one search."""
    space = problem.space
    table = problem.table
    scores = problem.scores
    largest = space.largest()
    # Evaluated accuracies and sums of scores are on different scales, so only one is shown.
    evaluated = problem.evaluations is not None
    known = None if evaluated else found.accuracy
    # The accuracy of the largest member, from which each step's cost is subtracted.
    level = None if known is None else known.value + found.cost
    if evaluated and found.evaluated is not None and found.drop is not None:
        level = found.evaluated + found.drop
    start = Point("", problem.latency.measure.total(largest), scores.cost(largest))
    steps = [Point(step.action, step.ms, step.total_cost) for step in found.trace]
    points = [_at_level(point, level) for point in (start, *steps)]
    points[-1] = _with_error(
        points[-1], values_of(known)[1], table.predict(found.architecture).standard_error
    )
    members = () if evaluated else published(problem)
    return Trajectory(
        points=tuple(points),
        published=members,
        target_ms=problem.target_ms,
        axis=_evaluated_axis(level, scores.metric)
        if evaluated
        else axis_of_problem(problem, (*points, *members)),
        title=(
            f"{space.name} on {table.device.name}: {found.ms:.3g} ms by {_moves(len(found.trace))}"
        ),
        note=note(table, scores),
    )


def _at_level(point: Point, level: float | None) -> Point:
    """Return the point with its accuracy, the largest member's `level` minus the point's cost."""
    return point if level is None else replace(point, accuracy=level - point.cost)


def _with_error(point: Point, error: float | None, ms_error: float | None) -> Point:
    return replace(point, error=error, ms_error=ms_error)


def _evaluated_axis(level: float | None, metric: str) -> Axis:
    """Return the axis of a search by evaluations; `level` is the largest member's accuracy."""
    return (
        axis_of((), "")
        if level is None
        else Axis(f"{metric_words(metric)} of the sliced supernet (%)", absolute=True)
    )


def _moves(count: int) -> str:
    return f"{count} move{'' if count == 1 else 's'}"


def read_trajectory(path: Path, about: About, sources: Sources) -> Trajectory | None:
    """Return the data of the figure from a run's `trace.csv`; None where the search took no step.

    Raises:
        InputError: for a damaged file, naming line, column and reason.
    """
    rows = read_columns(path, _NUMBERS, ("action", "move"))
    if not rows:
        return None
    first = rows[0]
    # The trace has no row for the start: undo the first step.
    start = Point(
        "",
        first["ms"] + first["saved_ms"],
        first["total_cost"] - first["cost"],
        ("the largest member",),
    )
    steps = (
        Point(
            row["action"],
            row["ms"],
            row["total_cost"],
            (
                f"step {row['step']:.0f}: {row['move']}",
                f"saves {row['saved_ms']:.4g} ms for {row['cost']:+.3g} points",
                f"{row['params'] / 1e6:.2f} M parameters, {row['macs'] / 1e9:.3f} G MACs",
            ),
        )
        for row in rows
    )
    evaluator = about.score_by.judge
    result = about.result
    known = None if evaluator else result.accuracy
    level = None if known is None else known.value + result.cost
    if evaluator and result.evaluated is not None and result.drop is not None:
        level = result.evaluated + result.drop
    points = [_at_level(point, level) for point in (start, *steps)]
    points[-1] = _with_error(
        points[-1], known.standard_error if known else None, result.latency_error
    )
    # Published accuracies are not those of a sliced supernet.
    members = () if evaluator else published_members(about, sources)
    axis = axis_of((*points, *members), about.scores.kind, about.scores.metric)
    return Trajectory(
        points=tuple(points),
        published=members,
        target_ms=inf if about.target.latency_ms is None else about.target.latency_ms,
        axis=_evaluated_axis(level, about.scores.metric) if evaluator else axis,
        title=(
            f"{about.space.name} on {about.table.device}: {result.latency_ms:.3g} ms by"
            f" {_moves(len(rows))}"
        ),
        note=f"{note_of(about)}\nEvery step evaluated by {evaluator}."
        if evaluator
        else note_of(about),
    )


def trajectory_figure(data: Trajectory) -> Figure:
    """Return the figure of every step of a search, from the largest member to the found one."""
    axis = data.axis
    end = replace(data.points[-1], label="found")
    frame = view(axis, data.points, (end, *data.published), data.target_ms)
    steps = [
        Marks(series, _steps(data, action, series.name), 45) for action, series in ACTIONS.items()
    ]
    start = [replace(data.points[0], label="largest member")]
    marks = [
        *steps,
        Marks(Series("largest member", GREY, "diamond"), start, 80),
        Marks(PUBLISHED, data.published, 60, bars=True),
        Marks(FOUND, [end], 150, bars=True, edge=True),
    ]
    return plane(
        data.title,
        data.note,
        axis,
        frame,
        marks=marks,
        way=data.points,
        labels=place_labels(axis, [end], data.published, frame),
        target_ms=data.target_ms,
    )


def _steps(data: Trajectory, action: str, name: str) -> list[Point]:
    return [replace(point, label=name) for point in data.points if point.label == action]
