"""One space on several devices: a Pareto front each, and the member that is good enough for all of
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas.errors import InputError
from nas.search.engines.exact import FrontPoint, exact, front
from nas.search.limits import Limit
from nas.search.problem import Found, Problem


@dataclass(frozen=True)
class OnDevice:
    """What is best on one device, whatever the others say.

    Attributes:
        front: all members that no other one beats there in both latency and cost, fastest first.
        best: the member of least cost within the device's target.
    """

    problem: Problem
    front: tuple[FrontPoint, ...]
    best: Found


@dataclass(frozen=True)
class Several:
    """What is best on several devices.

    Attributes:
        common: the member of least cost within the targets of all of them, its latency that on the
            first; None where there is none.
        reason: why there is none.
    """

    devices: tuple[OnDevice, ...]
    common: Found | None
    reason: str = ""


def search_several(problems: Sequence[Problem]) -> Several:
    """Solve the problems, which differ in their tables and targets, by the exact engine: each
    alone, then together.

    Raises:
        InputError: as `exact` and `front`.
    """
    silent = [replace(problem, on_step=None) for problem in problems]
    devices = tuple(OnDevice(problem, front(problem), exact(problem)) for problem in silent)
    first, *others = silent
    together = replace(first, limits=(*first.limits, *map(_on, others)))
    try:
        return Several(devices, exact(together))
    except InputError as error:
        return Several(devices, None, str(error))


def _on(problem: Problem) -> Limit:
    """Return a problem's target as a limit for others: latency on its device."""
    device = problem.table.device.name
    measure = replace(problem.latency.measure, key=f"latency_ms_{device}", name=f"on {device}")
    return Limit(measure, problem.target_ms)
