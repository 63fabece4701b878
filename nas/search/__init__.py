"""Searching a space for the member that a device runs in time at the least cost in accuracy. Imports no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, get_args

from nas.errors import InputError, nearest
from nas.latency import LatencyTable
from nas.search.fastest import fastest
from nas.search.moves import Drop, Exchange, Localise, Move, Narrow, moves
from nas.search.problem import Candidates, Found, Problem, Step
from nas.search.scores import Score, Scores, default_scores, load_scores
from nas.search.slimming import slim
from nas.space import Space

ENGINES: dict[str, Callable[[Problem], Found]] = {"slimming": slim}
"""A further engine is one function in a file of its own, named here."""


def search(
    space: Space, table: LatencyTable, scores: Scores, latency_ms: float | None = None, engine: str = "slimming",
    candidates: Candidates = "all", on_step: Callable[[Step], None] | None = None,
) -> Found:  # fmt: skip
    """The member of `space` within `latency_ms` on the table's device that costs least accuracy, as `engine` finds it.

    Args:
        latency_ms: the target; by default the predicted latency of the smallest published member, or half of the
            largest member's where none is published.
        engine: "slimming", greedy, one move at a time.
        candidates: which moves slimming weighs, "all" legal ones or those of the "paper".
        on_step: called with every step as it is taken.

    Raises:
        InputError: as `pose`.
        NasError: when the engine cannot get to a target that some member meets.
    """
    return solve(pose(space, table, scores, latency_ms, engine, candidates, on_step))


def solve(problem: Problem) -> Found:
    """Hands the problem to its engine, and names what that found after space, device and latency."""
    found = ENGINES[problem.engine](problem)
    name = f"{problem.space.name}-{problem.table.device.name}-{found.ms:.3g}ms"
    return replace(found, architecture=replace(found.architecture, name=name))


def pose(
    space: Space, table: LatencyTable, scores: Scores, latency_ms: float | None = None, engine: str = "slimming",
    candidates: Candidates = "all", on_step: Callable[[Step], None] | None = None,
) -> Problem:  # fmt: skip
    """The checked input of a search; its arguments are those of `search`.

    Raises:
        InputError: for an unknown engine, scores of another space, a table without a needed row, or a target that no
            member meets; the message names the smallest latency there is.
    """
    for what, given, known in (("engine", engine, tuple(ENGINES)), ("candidates", candidates, get_args(Candidates))):
        if given not in known:
            raise InputError(f"unknown {what} '{given}'{nearest(given, known)}")
    scores.check(space)
    least_ms, quickest = fastest(space, table)
    target_ms, reason = (latency_ms, "as given") if latency_ms is not None else _default_target(space, table)
    if not math.isfinite(target_ms) or target_ms <= 0:
        raise InputError(f"latency target {target_ms} ms: expected a positive number")
    if target_ms < least_ms:
        shape = f"widths {'-'.join(map(str, quickest.widths))}, depths {'-'.join(map(str, quickest.depths))}"
        raise InputError(f"latency target {target_ms:g} ms cannot be reached: the fastest member of space "
                         f"'{space.name}' ({shape}) takes {least_ms:.4g} ms on {table.device.name}")  # fmt: skip
    return Problem(space, table, scores, target_ms, reason, engine, candidates, on_step)


def _default_target(space: Space, table: LatencyTable) -> tuple[float, str]:
    """The predicted latency of the published member with the fewest parameters, and that in words.

    A space without published members gets half of what its largest takes, or the least there is if that is more.
    """
    if not space.published:
        half = max(table.total_ms(space.largest()) / 2, fastest(space, table)[0])
        return half, f"half of what the largest member of {space.name} takes, which has no published members"
    smallest = min(space.published.values(), key=lambda arch: arch.params)
    return table.total_ms(smallest), f"the predicted latency of the smallest published member, {smallest.name}"


class _CallableModule(ModuleType):
    """Lets `nas.search` be both: the function of the public API, and this package, which importing anything in it
    binds to that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Found:
        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

__all__ = [
    "ENGINES", "Candidates", "Drop", "Exchange", "Found", "Localise", "Move", "Narrow", "Problem", "Score", "Scores",
    "Step", "default_scores", "fastest", "load_scores", "moves", "pose", "search", "solve",
]  # fmt: skip
