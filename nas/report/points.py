"""Networks as points by predicted latency and expected accuracy: what several figures show, and their axis.

Better is upward on every picture. Where the scores know a level, the y axis is the expected
accuracy in percent; where they know costs only, it is the points below the space's largest member,
fewer of them further up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nas.accuracy import Accuracy, Scores
from nas.latency import LatencyTable
from nas.runs.schema import About, Member
from nas.search import Problem
from nas.search.description import kind_of
from nas.search.description import published as published_rows

METRICS = {"top1": "top-1", "miou": "mIoU"}
"""What metrics are called."""


@dataclass(frozen=True)
class Point:
    """A network by its predicted latency and its expected accuracy.

    Attributes:
        cost: expected accuracy drop against the space's largest member, in points.
        about: further lines on it, for readers who ask.
        accuracy, error: in percent with its standard error in points; None where only costs are
            known.
        ms_error: standard error of `ms`; None where nobody checked the table.
    """

    label: str
    ms: float
    cost: float
    about: tuple[str, ...] = ()
    accuracy: float | None = None
    error: float | None = None
    ms_error: float | None = None


@dataclass(frozen=True)
class Axis:
    """The y axis: `absolute` for accuracies in percent, else points below the largest member,
    downward."""

    label: str
    absolute: bool

    def value(self, point: Point) -> float:
        """Return where the point stands."""
        return point.accuracy if self.absolute and point.accuracy is not None else point.cost


def axis_of(points: Iterable[Point], kind: str, metric: str = "top1") -> Axis:
    """Return the axis for these points, by scores of this kind: absolute where the accuracy of all
    is known."""
    known = [point.accuracy is not None for point in points]
    name = METRICS.get(metric, metric)
    if known and all(known):
        return Axis(f"expected {'ImageNet ' if kind == 'law' else ''}{name} (%)", absolute=True)
    return Axis(f"points of {name} below the largest member", absolute=False)


def point_of(label: str, member: Member) -> Point:
    """Return a member that a run recorded as a point."""
    known = member.accuracy
    return Point(
        label,
        member.latency_ms,
        member.cost,
        (*accuracy_lines(member), *shape_lines(member.model_dump())),
        None if known is None else known.value,
        None if known is None else known.standard_error,
        member.latency_error,
    )


def values_of(accuracy: Accuracy | None) -> tuple[float | None, float | None]:
    """Return value and standard error, None where there is no accuracy."""
    return (None, None) if accuracy is None else (accuracy.value, accuracy.standard_error)


def accuracy_lines(member: Member) -> tuple[str, ...]:
    """Return what is known of a published member's accuracy beside its number, and why a figure is
    extrapolated."""
    known = member.accuracy
    if known is None:
        return ()
    if known.predicted is not None:
        error = "" if known.predicted_error is None else f" ± {known.predicted_error:.1f}"
        return (f"published; predicted without it {known.predicted:.1f}{error} %",)
    return known.reasons


def published_points(members: Mapping[str, Member], space: str) -> tuple[Point, ...]:
    """Return published members as points, without the space's name in theirs."""
    return tuple(
        point_of(name.removeprefix(f"{space}_"), member) for name, member in members.items()
    )


def published(problem: Problem) -> tuple[Point, ...]:
    """Return the published members of a problem's space that its device can run."""
    rows = published_rows(problem)
    return published_points(
        {name: Member.model_validate(row) for name, row in rows.items()}, problem.space.name
    )


def shape_lines(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Shape and size of a member, from what `nas.search.description.summary` gives; shapes may be text
    already."""
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
    """Return where the figures of a picture came from."""
    device = table.device
    runtime = f"{device.runtime} {device.runtime_version}"
    return _note(
        table.provenance, device.soc, device.os, runtime, table.expected_error, scores.provenance
    )


def note_of(about: About) -> str:
    """Return the same, as a run recorded it."""
    table = about.table
    return _note(
        table.provenance,
        table.soc,
        table.os,
        table.runtime,
        table.expected_error,
        about.scores.provenance,
    )


def _note(
    provenance: str, soc: str, os: str, runtime: str, expected_error: float | None, scores: str
) -> str:
    error = "" if expected_error is None else f", expected error {expected_error:.1f} %"
    return (
        f"Latency: {provenance} table, {soc}, {os}, {runtime}{error}.\nAccuracy: {scores}. ± is one"
        " standard error."
    )


def axis_of_problem(problem: Problem, points: Iterable[Point]) -> Axis:
    """Return the axis for points by the scores of a problem."""
    return axis_of(points, kind_of(problem.scores), problem.scores.metric)
