"""The picture of a Pareto front: latency against expected accuracy. The data apart from the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from nas.csv_files import read_columns
from nas.errors import InputError
from nas.report.pictures import figure_of, write_picture
from nas.report.plane import (
    MS,
    Axis,
    Point,
    axis_of,
    axis_of_problem,
    note,
    note_of,
    point_of,
    published,
    published_points,
    save,
    shape_lines,
    values_of,
    view,
)
from nas.report.sources import Sources
from nas.runs.schema import BEST, About
from nas.search import Found, Problem
from nas.search.exact import FrontPoint, front
from nas.search.run import summary
from nas.space import Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHAPE = ("widths", "depths", "attention")


_FRONT = "#0072b2"
_COLOURS = (_FRONT, "#e69f00", "#009e73", "#aa4499", "#56b4e9", "#8c564b", "#999999")
"""Of runs side by side."""


@dataclass(frozen=True)
class Front:
    """What the picture shows.

    Attributes:
        points: the front, fastest first; empty where it is not known.
        found: what was found first, then what other engines would find at the target, labelled with the engine.
        published: the published members.
        target_ms: where the search was to get; infinite for nowhere.
        axis: what is upward.
        title, note: what was searched, and where the figures came from.
    """

    points: tuple[Point, ...]
    found: tuple[Point, ...]
    published: tuple[Point, ...]
    target_ms: float
    axis: Axis
    title: str
    note: str


def front_picture(problem: Problem, points: Sequence[FrontPoint], found: Mapping[str, Found]) -> Front:
    """Return the data of the picture of a front, and of what engines found (the search's own first)."""
    curve = _points(problem.space, points)
    answers = tuple(_answer(problem, name, one) for name, one in found.items())
    members = published(problem)
    return Front(
        points=curve,
        found=answers,
        published=members,
        target_ms=problem.target_ms,
        axis=axis_of_problem(problem, (*curve, *answers, *members)),
        title=f"{problem.space.name} on {problem.table.device.name}: Pareto front of {len(points)} members",
        note=note(problem.table, problem.scores),
    )


def _answer(problem: Problem, name: str, found: Found) -> Point:
    value, error = values_of(found.accuracy)
    ms_error = problem.table.predict(found.architecture).standard_error
    shape = shape_lines(summary(problem.space, found.architecture))
    return Point(name, found.ms, found.cost, shape, value, error, ms_error)


def read_front(paths: Sequence[Path], about: About, sources: Sources) -> tuple[Front, str]:
    """The same of a run, whose front is in one of `paths` or is computed, and why the front is not there if it is not.

    Raises:
        InputError: for a damaged file, naming line, column and reason.
    """
    path = next((path for path in paths if path.is_file()), None)
    points, reason = (_read(path), "") if path else _computed(sources)
    members = published_members(about, sources)
    result = about.result
    found = [point_of("found", result)]
    # Of a search on several devices, what is best on this one alone stands beside.
    found += [point_of(name, each) for name, each in about.answers.items() if name == f"{BEST}{about.table.device}"
              and (each.latency_ms, each.cost) != (result.latency_ms, result.cost)]  # fmt: skip
    title = f": Pareto front of {len(points)} members" if points else ""
    return Front(
        points=points,
        found=tuple(found),
        published=members,
        target_ms=inf if about.target.latency_ms is None else about.target.latency_ms,
        axis=axis_of((*points, *found, *members), about.scores.kind, about.scores.metric),
        title=f"{about.space.name} on {about.table.device}{title}",
        note=note_of(about),
    ), reason


def published_members(about: About, sources: Sources) -> tuple[Point, ...]:
    """Return the published members as the run recorded them, or as its sources have them (of an older run)."""
    if about.published:
        return published_points(about.published, about.space.name)
    return published(sources.problem) if sources.problem else ()


def _read(path: Path) -> tuple[Point, ...]:
    rows = read_columns(path, ("ms", "cost", "macs", "params"), _SHAPE, ("accuracy", "standard_error"))
    return tuple(
        Point("", row["ms"], row["cost"], shape_lines(row), row["accuracy"], row["standard_error"]) for row in rows
    )


def _computed(sources: Sources) -> tuple[tuple[Point, ...], str]:
    if sources.problem is None:
        return (), sources.reason
    try:
        return _points(sources.problem.space, front(sources.problem)), ""
    except InputError as error:
        return (), str(error)


def _points(space: Space, points: Sequence[FrontPoint]) -> tuple[Point, ...]:
    return tuple(
        Point("", p.ms, p.cost, shape_lines(summary(space, p.architecture)), *values_of(p.accuracy)) for p in points
    )


def draw_fronts(fronts: Mapping[str, Front], path: str | Path) -> None:
    """Write the fronts of several runs, by name, as PNG: what each found is a disc, published members are stars."""
    figure, axes = figure_of(8.0, 5.4)
    axis = shared_axis(tuple(fronts.values()))
    for index, (name, one) in enumerate(fronts.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        axes.step([p.ms for p in one.points], [axis.value(p) for p in one.points], where="post", color=colour,
                  label=name)  # fmt: skip
        _band(axes, axis, one.points, colour)
        for points, marker, size in ((one.published, "*", 70), (one.found[:1], "o", 110)):
            axes.scatter([p.ms for p in points], [axis.value(p) for p in points], s=size, marker=marker, color=colour,
                         edgecolors="white", linewidths=1.0, zorder=3)  # fmt: skip
    curve = [point for one in fronts.values() for point in one.points]
    marked = [point for one in fronts.values() for point in (*one.found, *one.published)]
    frame = view(axis, curve, marked, inf)
    if frame:
        axes.set(xlim=(frame.left, frame.right), ylim=(frame.bottom, frame.top))
    axes.set(xlabel=MS, ylabel=axis.label if axis.absolute else f"{axis.label}\nof each space")
    write_picture(figure, "Fronts (lines), found members (discs), published members (stars)", "", path)


def shared_axis(fronts: Sequence[Front]) -> Axis:
    """Return the axis that all fronts have, or that of costs where they differ."""
    axes = {front.axis for front in fronts}
    if len(axes) == 1:
        return axes.pop()
    levels = {axis.label for axis in axes if axis.absolute}
    if all(axis.absolute for axis in axes):
        return Axis(" or ".join(sorted(levels)), absolute=True)
    return axis_of((), "")


def draw_front(data: Front, path: str | Path) -> None:
    """Write the picture as PNG."""

    def draw(axes: Axes) -> None:
        if data.points:
            x, y = [point.ms for point in data.points], [data.axis.value(point) for point in data.points]
            axes.step(x, y, where="post", color=_FRONT, linewidth=1.4, label="Pareto front", zorder=2)
            _band(axes, data.axis, data.points, _FRONT, "± 1 standard error")

    save(draw, data.axis, data.points, data.found, data.published, data.target_ms, data.title, data.note, path)


def _band(axes: Axes, axis: Axis, points: Sequence[Point], colour: str, label: str | None = None) -> None:
    """Draw one standard error around a front, where its errors are known."""
    if axis.absolute and points and all(p.error is not None for p in points):
        low = [axis.value(p) - (p.error or 0.0) for p in points]
        high = [axis.value(p) + (p.error or 0.0) for p in points]
        axes.fill_between([p.ms for p in points], low, high, step="post", color=colour, alpha=0.16, linewidth=0,
                          label=label, zorder=1)  # fmt: skip
