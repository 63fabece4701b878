"""Figure of a Pareto front of latency and expected accuracy: its data, then its drawing.

`nas search --front` draws it from a problem, `nas report` from a run's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from nas.csv_files import read_columns
from nas.errors import InputError
from nas.figures import Figure, Series
from nas.report.figure import FOUND, PUBLISHED, STAR, Curve, Marks, plane
from nas.report.labels import COLOURS, FOUND_COLOUR, place_labels, view
from nas.report.points import (
    Axis,
    Point,
    axis_of,
    axis_of_problem,
    note,
    note_of,
    point_of,
    published,
    published_points,
    shape_lines,
    size_lines,
    values_of,
)
from nas.report.sources import Sources
from nas.runs.schema import BEST, About
from nas.search import Found, Problem
from nas.search.description import summary
from nas.search.engines.exact import FrontPoint, front
from nas.space import Architecture, Space
from nas.space.sizes import size_text

_SHAPE = ("widths", "depths", "attention")
_OTHERS = ("square", "triangle-up", "diamond")
"""Marker shapes of the members that other engines found."""


@dataclass(frozen=True)
class Front:
    """The data of the figure.

    Attributes:
        points: the front, fastest first; empty where it is not known.
        found: the found member first, then those that other engines would find at the target,
            labelled by engine.
        published: the published members.
        target_ms: the latency target; infinite where there was none.
        axis: the vertical axis.
        title: of the figure: space, device and number of members.
        note: the sources of latencies and accuracies.
    """

    points: tuple[Point, ...]
    found: tuple[Point, ...]
    published: tuple[Point, ...]
    target_ms: float
    axis: Axis
    title: str
    note: str


def front_picture(
    problem: Problem, points: Sequence[FrontPoint], found: Mapping[str, Found]
) -> Front:
    """Return the data of the figure of a front and of the found members.

    Args:
        problem: the search.
        points: the front.
        found: results by engine, that of the search's own engine first.
    """
    curve = _points(problem.space, points)
    several = len({point.architecture.resolution for point in points}) > 1
    answers = tuple(_answer(problem, name, one, several) for name, one in found.items())
    members = published(problem)
    return Front(
        points=curve,
        found=answers,
        published=members,
        target_ms=problem.target_ms,
        axis=axis_of_problem(problem, (*curve, *answers, *members)),
        title=(
            f"{problem.space.name} on {problem.table.device.name}: Pareto front of {len(points)}"
            " members"
        ),
        note=note(problem.table, problem.scores),
    )


def _answer(problem: Problem, name: str, found: Found, several: bool) -> Point:
    """Return a found member as a point, with its input size where there are several."""
    value, error = values_of(found.accuracy)
    ms_error = problem.table.predict(found.architecture).standard_error
    shape = shape_lines(summary(problem.space, found.architecture))
    shape += size_lines(size_text(found.architecture.resolution)) if several else ()
    return Point(name, found.ms, found.cost, shape, value, error, ms_error)


def read_front(paths: Sequence[Path], about: About, sources: Sources) -> tuple[Front, str]:
    """Return the data of a run's front, and the reason where it has no points.

    The front is read from the first of `paths` that exists, or else computed.

    Raises:
        InputError: for a damaged file, naming line, column and reason.
    """
    path = next((path for path in paths if path.is_file()), None)
    points, reason = (_read(path), "") if path else _computed(sources)
    members = published_members(about, sources)
    result = about.result
    chosen = [each.resolution for each in about.sizes if each.chosen]
    answer = point_of("found", result)
    # The size is told where the search chose it.
    found = [replace(answer, about=(*answer.about, *size_lines(*map(size_text, chosen))))]
    # In a search on several devices the result is a compromise: also show this device's own best
    # member, where it is another one.
    found += [
        point_of(name, each)
        for name, each in about.answers.items()
        if name == f"{BEST}{about.table.device}"
        and (each.latency_ms, each.cost) != (result.latency_ms, result.cost)
    ]
    title = f": Pareto front of {len(points)} members" if points else ""
    return (
        Front(
            points=points,
            found=tuple(found),
            published=members,
            target_ms=inf if about.target.latency_ms is None else about.target.latency_ms,
            axis=axis_of((*points, *found, *members), about.scores.kind, about.scores.metric),
            title=f"{about.space.name} on {about.table.device}{title}",
            note=note_of(about),
        ),
        reason,
    )


def published_members(about: About, sources: Sources) -> tuple[Point, ...]:
    """Return the published members as the run recorded them.

    For older runs, which did not record them, they are computed from the run's sources.
    """
    if about.published:
        return published_points(about.published, about.space.name)
    return published(sources.problem) if sources.problem else ()


def _read(path: Path) -> tuple[Point, ...]:
    rows = read_columns(
        path,
        numbers=("ms", "cost", "macs", "params"),
        texts=_SHAPE,
        optional=("accuracy", "standard_error"),
        optional_texts=("resolution",),
    )
    several = len({row["resolution"] for row in rows}) > 1
    return tuple(
        Point(
            label="",
            ms=row["ms"],
            cost=row["cost"],
            about=shape_lines(row) + (size_lines(row["resolution"]) if several else ()),
            accuracy=row["accuracy"],
            error=row["standard_error"],
        )
        for row in rows
    )


def _computed(sources: Sources) -> tuple[tuple[Point, ...], str]:
    """Return the front that the exact engine computes from the run's inputs, or the reason."""
    if sources.problem is None:
        return (), sources.reason
    try:
        return _points(sources.problem.space, front(sources.problem)), ""
    except InputError as error:
        return (), str(error)


def _points(space: Space, points: Sequence[FrontPoint]) -> tuple[Point, ...]:
    """Return the points of a front, with their input sizes where there are several."""
    several = len({point.architecture.resolution for point in points}) > 1

    def about(arch: Architecture) -> tuple[str, ...]:
        lines = shape_lines(summary(space, arch))
        return (*lines, *size_lines(size_text(arch.resolution))) if several else lines

    return tuple(
        Point("", p.ms, p.cost, about(p.architecture), *values_of(p.accuracy)) for p in points
    )


def front_figure(data: Front, measured: Point | None = None) -> Figure:
    """Return the figure of a front, the found members and the published ones.

    Args:
        data: the data of the figure.
        measured: the found member at its measured values.
    """
    axis = data.axis
    found = [*(replace(point, label="found") for point in data.found[:1]), *data.found[1:]]
    since = [measured] if measured else []
    frame = view(axis, data.points, (*found, *data.published, *since), data.target_ms)
    others = [
        Marks(Series(point.label, COLOURS[index + 1], shape, filled=False), [point])
        for index, (point, shape) in enumerate(zip(found[1:], _OTHERS, strict=False))
    ]
    marks = [
        Marks(PUBLISHED, data.published, 60, bars=True),
        *others,
        Marks(
            Series("found, measured", FOUND_COLOUR, "diamond", filled=False), since, 90, bars=True
        ),
        Marks(FOUND, found[:1], 150, bars=True, edge=True),
    ]
    return plane(
        data.title,
        data.note,
        axis,
        frame,
        marks=marks,
        curves=[
            Curve(Series("Pareto front", COLOURS[0], "stroke"), data.points, "± 1 standard error")
        ],
        dotted=[*found[:1], *since] if since else (),
        labels=place_labels(axis, found, data.published, frame, since),
        target_ms=data.target_ms,
    )


def fronts_figure(fronts: Mapping[str, Front]) -> Figure:
    """Return the fronts of several runs, by name.

    A disc is the found member of a run; stars are published members.
    """
    axis = shared_axis(tuple(fronts.values()))
    curves = []
    marks = []
    for index, (name, one) in enumerate(fronts.items()):
        colour = COLOURS[index % len(COLOURS)]
        curves.append(Curve(Series(name, colour, "stroke"), one.points))
        found = [replace(point, label=name) for point in one.found[:1]]
        members = [replace(point, label=f"{name}: {point.label}") for point in one.published]
        marks.append(Marks(Series(f"{name}: published", colour, STAR, shown=False), members, 50))
        # The legend names a run by its front, or by its disc where the front is not known.
        known = bool(one.points)
        marks.append(
            Marks(
                Series(f"{name}: found", colour, shown=not known), found, 130, bars=True, edge=True
            )
        )
    curve = [point for one in fronts.values() for point in one.points]
    marked = [point for one in fronts.values() for point in (*one.found, *one.published)]
    frame = view(axis, curve, marked, inf)
    label = axis if axis.absolute else replace(axis, label=f"{axis.label} of each space")
    return plane(
        "Fronts (lines), found members (discs) and published members (stars)",
        "",
        label,
        frame,
        marks=marks,
        curves=curves,
    )


def shared_axis(fronts: Sequence[Front]) -> Axis:
    """Return the axis of all fronts, or an axis of costs where they differ."""
    axes = {front.axis for front in fronts}
    if len(axes) == 1:
        return axes.pop()
    # Different metrics in percent can share an axis. Accuracies and costs cannot.
    levels = {axis.label for axis in axes if axis.absolute}
    if all(axis.absolute for axis in axes):
        return Axis(" or ".join(sorted(levels)), absolute=True)
    return axis_of((), "")
