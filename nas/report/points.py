"""Networks as points of predicted latency and expected accuracy, and the axis of their figures.

`nas.report.front` and `nas.report.trajectory` draw them. Up is better on every figure. The y axis
is the expected accuracy in percent where the scores give one. Where they give costs only, it is the
points below the space's largest member, with fewer points further up.
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
from nas.tasks import metric_words


@dataclass(frozen=True)
class Point:
    """A network with its predicted latency and its expected accuracy.

    Attributes:
        cost: expected accuracy drop against the space's largest member, in points.
        about: further lines of its tooltip.
        accuracy, error: expected accuracy in percent and its standard error in points; None where
            only costs are known.
        ms_error: standard error of `ms`; None where the table was never checked.
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
    """The y axis of a figure.

    Attributes:
        label: its title.
        absolute: True for accuracies in percent; False for points below the largest member, which
            grow downward.
    """

    label: str
    absolute: bool

    def value(self, point: Point) -> float:
        """Return the coordinate of a point on this axis."""
        return point.accuracy if self.absolute and point.accuracy is not None else point.cost


def axis_of(points: Iterable[Point], kind: str, metric: str = "top1") -> Axis:
    """Return the axis for these points: absolute where the accuracy of all of them is known.

    Args:
        points: the points to show.
        kind: of the scores, such as "law".
        metric: key of the metric.
    """
    has_accuracy = [point.accuracy is not None for point in points]
    name = metric_words(metric)
    if has_accuracy and all(has_accuracy):
        return Axis(f"expected {'ImageNet ' if kind == 'law' else ''}{name} (%)", absolute=True)
    return Axis(f"points of {name} below the largest member", absolute=False)


def point_of(label: str, member: Member) -> Point:
    """Return a member that a run recorded as a point."""
    accuracy = member.accuracy
    return Point(
        label,
        member.latency_ms,
        member.cost,
        (*accuracy_lines(member), *shape_lines(member.model_dump())),
        None if accuracy is None else accuracy.value,
        None if accuracy is None else accuracy.standard_error,
        member.latency_error,
    )


def values_of(accuracy: Accuracy | None) -> tuple[float | None, float | None]:
    """Return the value and the standard error of an accuracy, both None without one."""
    return (None, None) if accuracy is None else (accuracy.value, accuracy.standard_error)


def accuracy_lines(member: Member) -> tuple[str, ...]:
    """Return the tooltip lines on a member's accuracy.

    A published accuracy comes with its prediction, an extrapolated one with the reasons.
    """
    accuracy = member.accuracy
    if accuracy is None:
        return ()
    if accuracy.predicted is not None:
        error = "" if accuracy.predicted_error is None else f" ± {accuracy.predicted_error:.1f}"
        return (f"published; predicted without this result: {accuracy.predicted:.1f}{error} %",)
    return accuracy.reasons


def published_points(members: Mapping[str, Member], space: str) -> tuple[Point, ...]:
    """Return published members as points, labelled by their names without the space's name."""
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
    """Return the shape and the size of a member as lines.

    Args:
        row: an entry of `nas.search.description.summary`, or a row of front.csv, where widths,
            depths and attention blocks are text.
    """
    shapes = {
        name: row[name] if isinstance(row[name], str) else "-".join(map(str, row[name]))
        for name in ("widths", "depths", "attention")
    }
    return (
        f"widths {shapes['widths']}",
        f"depths {shapes['depths']}, attention blocks {shapes['attention']}",
        f"{row['params'] / 1e6:.2f} M parameters, {row['macs'] / 1e9:.3f} G MACs",
    )


def size_lines(*sizes: str) -> tuple[str, ...]:
    """Return a tooltip line per input size, such as 224x224."""
    return tuple(f"input {size}" for size in sizes)


def note(table: LatencyTable, scores: Scores) -> str:
    """Return the sources of a figure's latencies and accuracies as text."""
    device = table.device
    runtime = f"{device.runtime} {device.runtime_version}"
    return _note(
        table.provenance, device.soc, device.os, runtime, table.expected_error, scores.provenance
    )


def note_of(about: About) -> str:
    """Return the sources of a figure's latencies and accuracies, as a run recorded them."""
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
    """Return the axis for points of a problem, by its scores."""
    return axis_of(points, kind_of(problem.scores), problem.scores.metric)
