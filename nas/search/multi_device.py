"""Search one space on several devices: a Pareto front per device, and one member for all of them.

`nas search` with several --device calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas.errors import InputError
from nas.search.engines.exact import FrontPoint, exact, front
from nas.search.limits import Limit
from nas.search.problem import Found, Problem


@dataclass(frozen=True)
class OnDevice:
    """The result on one device, whatever the others are.

    Attributes:
        problem: of this device.
        front: the members that no other one beats in both latency and cost there, fastest first.
        best: the member of least cost within the device's target.
    """

    problem: Problem
    front: tuple[FrontPoint, ...]
    best: Found


@dataclass(frozen=True)
class Several:
    """The results on several devices.

    Attributes:
        devices: the result on each.
        common: the member of least cost within the targets of all devices, with its latency on the
            first one; None where no member keeps all targets.
        reason: why `common` is None; else empty.
    """

    devices: tuple[OnDevice, ...]
    common: Found | None
    reason: str = ""


def search_several(problems: Sequence[Problem]) -> Several:
    """Solve problems that differ in table and target by the exact engine, alone and together.

    Raises:
        InputError: as `exact` and `front`.
    """
    silent = [replace(problem, on_step=None) for problem in problems]
    devices = tuple(OnDevice(problem, front(problem), exact(problem)) for problem in silent)
    # Latency adds up on every device, so the targets of the others are further limits of the first.
    first, *others = silent
    together = replace(first, limits=(*first.limits, *map(_on, others)))
    try:
        return Several(devices, exact(together))
    except InputError as error:
        return Several(devices, None, str(error))


def _on(problem: Problem) -> Limit:
    """Return a problem's latency target as a limit for another problem."""
    device = problem.table.device.name
    measure = replace(problem.latency.measure, key=f"latency_ms_{device}", name=f"on {device}")
    return Limit(measure, problem.target_ms)
