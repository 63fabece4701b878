"""The picture of a Pareto front: latency against expected accuracy drop. The data apart from the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import InputError
from nas.report.pictures import figure_of, write_picture
from nas.report.plane import COST, MS, Point, note, note_of, published, save, shape_lines
from nas.report.reading import About, read_csv
from nas.report.sources import Sources
from nas.search import Found, Problem
from nas.search.exact import FrontPoint, front
from nas.search.run import summary
from nas.space import Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = (("#cc3311", "o"), ("#e69f00", "s"), ("#009e73", "^"))
"""Colour and marker of what an engine found; the colours keep apart for colour-blind readers."""

_SHAPE = ("widths", "depths", "attention")


@dataclass(frozen=True)
class Front:
    """What the picture shows.

    Attributes:
        points: the front, fastest first; empty where it is not known.
        found: what engines found at the target, labelled with the engine.
        published: the published members.
        target_ms: where the search was to get; infinite for nowhere.
        title, note: what was searched, and where the figures came from.
    """

    points: tuple[Point, ...]
    found: tuple[Point, ...]
    published: tuple[Point, ...]
    target_ms: float
    title: str
    note: str


def front_picture(problem: Problem, points: Sequence[FrontPoint], found: Mapping[str, Found]) -> Front:
    """The data of the picture of a front, and of what engines found."""
    return Front(
        points=_points(problem.space, points),
        found=tuple(Point(engine, one.ms, one.cost) for engine, one in found.items()),
        published=published(problem),
        target_ms=problem.target_ms,
        title=f"{problem.space.name} on {problem.table.device.name}: Pareto front of {len(points)} members",
        note=note(problem.table, problem.scores),
    )


def read_front(paths: Sequence[Path], about: About, sources: Sources) -> tuple[Front, str]:
    """The same of a run, whose front is in one of `paths` or is computed, and why the front is not there if it is not.

    Raises:
        InputError: for a damaged file, naming line, column and reason.
    """
    path = next((path for path in paths if path.is_file()), None)
    points, reason = (_read(path), "") if path else _computed(sources)
    result = about.result
    members = f": Pareto front of {len(points)} members" if points else ""
    return Front(
        points=points,
        found=(Point("found", result.latency_ms, result.cost, shape_lines(result.model_dump())),),
        published=published(sources.problem) if sources.problem else (),
        target_ms=inf if about.target.latency_ms is None else about.target.latency_ms,
        title=f"{about.space.name} on {about.table.device}{members}",
        note=note_of(about),
    ), reason


def _read(path: Path) -> tuple[Point, ...]:
    rows = read_csv(path, ("ms", "cost", "macs", "params"), _SHAPE)
    return tuple(Point("", row["ms"], row["cost"], shape_lines(row)) for row in rows)


def _computed(sources: Sources) -> tuple[tuple[Point, ...], str]:
    if sources.problem is None:
        return (), sources.reason
    try:
        return _points(sources.problem.space, front(sources.problem)), ""
    except InputError as error:
        return (), str(error)


def _points(space: Space, points: Sequence[FrontPoint]) -> tuple[Point, ...]:
    return tuple(Point("", p.ms, p.cost, shape_lines(summary(space, p.architecture))) for p in points)


def draw_fronts(fronts: Mapping[str, Front], path: str | Path) -> None:
    """Writes the fronts of several runs, by name, as PNG: what each found is a ring, published members are stars."""
    figure, axes = figure_of(8.0, 5.4)
    for name, one in fronts.items():
        (line,) = axes.step([p.ms for p in one.points], [p.cost for p in one.points], where="post", label=name)
        for points, marker, face in ((one.found, "o", "none"), (one.published, "*", line.get_color())):
            axes.scatter([p.ms for p in points], [p.cost for p in points], s=80, marker=marker, facecolors=face,
                         edgecolors=line.get_color(), zorder=3)  # fmt: skip
    axes.set(xlabel=MS, ylabel=f"{COST}\nagainst each space's largest member")
    write_picture(figure, "Fronts (lines), found members (rings), published members (stars)", "", path)


def draw_front(data: Front, path: str | Path) -> None:
    """Writes the picture as PNG."""

    def draw(axes: Axes) -> None:
        if data.points:
            x, y = [point.ms for point in data.points], [point.cost for point in data.points]
            axes.step(x, y, where="post", color="#0072b2", linewidth=1, zorder=2)
            axes.scatter(x, y, s=12, color="#0072b2", label="Pareto front", zorder=3)
        for point, (colour, marker) in zip(data.found, _MARKERS, strict=False):
            axes.scatter([point.ms], [point.cost], s=110, facecolors="none", edgecolors=colour, marker=marker,
                         linewidths=1.6, label=point.label, zorder=4)  # fmt: skip

    save(draw, data.published, data.target_ms, data.title, data.note, path)
