"""Figures as text: limits, latencies, accuracies and differences, with their standard errors.

`nas.report.summary`, `nas.report.members` and `nas.report.page` call these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10

from nas.runs.schema import Difference, ExpectedAccuracy, Member
from nas.search.limits import MACS, PARAMS

LIMITS: Mapping[str, Callable[[float], str]] = {
    "macs": MACS.text,
    "params": PARAMS.text,
    "memory_mb": lambda most: f"{most:.4g} MB peak memory",
}
"""Function from a limit's value to its text, by the limit's name; latency has its own text."""


def ms_text(member: Member) -> str:
    """Return a predicted latency with its standard error."""
    return with_error(member.latency_ms, member.latency_error, "ms")


def accuracy_text(accuracy: ExpectedAccuracy) -> str:
    """Return an expected accuracy with its standard error."""
    return with_error(accuracy.value, accuracy.standard_error, "%", decimals=1)


def difference_text(apart: Difference) -> str:
    """Return by how many points the found network is expected to be more accurate.

    The text has the standard error, or says that it is unknown.
    """
    if apart.points and not apart.standard_error:
        return f"{signed(apart.points)} points, error unknown"
    return f"{signed(apart.points)} ± {apart.standard_error:.2f} points"


def with_error(value: float, error: float | None, unit: str, decimals: int | None = None) -> str:
    """Return a figure with its standard error and unit.

    Args:
        value, error: the figure and its standard error; without an error only the figure is shown.
        unit: of both.
        decimals: of both; by default as many as show two digits of the error.
    """
    if not error:
        return f"{value:.4g} {unit}" if decimals is None else f"{value:.{decimals}f} {unit}"
    digits = max(0, 1 - floor(log10(error))) if decimals is None else decimals
    # An error that would be rounded to 0 is shown with two digits.
    if decimals is not None and error < 0.5 * 10**-decimals:
        digits = max(digits, 1 - floor(log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f} {unit}"


def below(drop: float) -> str:
    """Return a drop as text: points below, or points above where the drop is negative."""
    return f"{abs(drop):.2f} points {'above' if drop < 0 else 'below'}"


def signed(points: float, decimals: int = 2) -> str:
    """Return a figure with its sign; the minus is U+2212, not a hyphen."""
    return f"{points:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def dashed(values: Sequence[int]) -> str:
    return "-".join(map(str, values))


def size_text(resolution: Sequence[int]) -> str:
    return "x".join(map(str, resolution))
