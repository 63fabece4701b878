"""The picture of a Pareto front: latency against expected accuracy drop. The data apart from the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.report.trajectory import Point, note, published, save
from nas.search import Found, Problem
from nas.search.exact import FrontPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = (("#cc3311", "o"), ("#e69f00", "s"), ("#009e73", "^"))
"""Colour and marker of what an engine found; the colours keep apart for colour-blind readers."""


@dataclass(frozen=True)
class Front:
    """What the picture shows.

    Attributes:
        points: the front, fastest first.
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
        points=tuple(Point("", point.ms, point.cost) for point in points),
        found=tuple(Point(engine, one.ms, one.cost) for engine, one in found.items()),
        published=published(problem),
        target_ms=problem.target_ms,
        title=f"{problem.space.name} on {problem.table.device.name}: Pareto front of {len(points)} members",
        note=note(problem.table, problem.scores),
    )


def draw_front(data: Front, path: str | Path) -> None:
    """Writes the picture as PNG."""

    def draw(axes: Axes) -> None:
        x, y = [point.ms for point in data.points], [point.cost for point in data.points]
        axes.step(x, y, where="post", color="#0072b2", linewidth=1, zorder=2)
        axes.scatter(x, y, s=12, color="#0072b2", label="Pareto front", zorder=3)
        for point, (colour, marker) in zip(data.found, _MARKERS, strict=False):
            axes.scatter([point.ms], [point.cost], s=110, facecolors="none", edgecolors=colour, marker=marker,
                         linewidths=1.6, label=point.label, zorder=4)  # fmt: skip

    save(draw, data.published, data.target_ms, data.title, data.note, path)
