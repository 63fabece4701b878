"""Searching a space for the member that a device runs in time at the least cost in accuracy. Imports no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, get_args

from nas.accuracy import Score, Scores, default_scores, load_scores
from nas.accuracy.evaluations import Evaluated, Evaluations
from nas.errors import InputError, nearest
from nas.latency import LatencyTable
from nas.search.engines import ENGINES, EVALUATING
from nas.search.fastest import fastest, least
from nas.search.graph import Graph
from nas.search.limits import Limit, further_limits
from nas.search.problem import Candidates, Found, Objective, Problem, Step
from nas.search.studies import StudySettings
from nas.space import Architecture, Space
from nas.space.moves import Drop, Exchange, Localise, Move, Narrow, moves


def search(
    space: Space, table: LatencyTable, scores: Scores, latency_ms: float | None = None, engine: str = "slimming",
    candidates: Candidates = "all", on_step: Callable[[Step], None] | None = None,
    limits: Mapping[str, float] | None = None, objective: Objective = "limits",
    study: StudySettings | None = None, evaluations: Evaluations | None = None, evaluate_best: int = 8,
) -> Found:  # fmt: skip
    """The member of `space` within `latency_ms` on the table's device that costs least accuracy, as `engine` finds it.

    Args:
        latency_ms: the target; without any limit the predicted latency of the smallest published member, or half of
            the largest member's where none is published.
        engine: "slimming", greedy, one move at a time, "exact", proven best by the scores, "learned", which corrects
            the scores by members that it evaluates, or "nsga2" or "tpe", which try members out.
        candidates: which moves slimming weighs, "all" legal ones or those of the "paper".
        on_step: called with every step as it is taken.
        limits: what else a member must keep: "macs", "params", "memory_mb" (peak activation memory), with the most
            there may be of each.
        objective: what a move of slimming is to gain for what it costs: "limits", an amount that is limited, or
            "mes", EfficientFormerV2's score of size and speed.
        study: trials and seed of "learned", "nsga2" and "tpe", storage and workers of the last two.
        evaluations: what "slimming" and "learned" judge members by in place of added-up scores, by the accuracy of the
            sliced supernet, say: `Evaluations(nas.supernet.evaluate.SlicedSupernet(folder, data))`.
        evaluate_best: how many moves of a step slimming evaluates, those best by the scores.

    Raises:
        InputError: as `pose`.
        NasError: when the engine cannot get to a target that some member meets.
    """
    return solve(pose(space, table, scores, latency_ms, engine, candidates, on_step, limits, objective, study,
                      evaluations, evaluate_best))  # fmt: skip


def solve(problem: Problem) -> Found:
    """Hands the problem to its engine, and names what that found after space, device and latency."""
    found = ENGINES[problem.engine](problem)
    name = f"{problem.space.name}-{problem.table.device.name}-{found.ms:.3g}ms"
    return replace(found, architecture=replace(found.architecture, name=name))


def pose(
    space: Space, table: LatencyTable, scores: Scores, latency_ms: float | None = None, engine: str = "slimming",
    candidates: Candidates = "all", on_step: Callable[[Step], None] | None = None,
    limits: Mapping[str, float] | None = None, objective: Objective = "limits",
    study: StudySettings | None = None, evaluations: Evaluations | None = None, evaluate_best: int = 8,
) -> Problem:  # fmt: skip
    """The checked input of a search; its arguments are those of `search`.

    Raises:
        InputError: for an unknown engine, scores of another space, a table without a needed row, or a limit that no
            member keeps; the message names the smallest amount there is.
    """
    known: tuple[tuple[str, str, Collection[str]], ...] = (
        ("engine", engine, ENGINES), ("candidates", candidates, get_args(Candidates)),
        ("objective", objective, get_args(Objective)),
    )  # fmt: skip
    for what, given, names in known:
        if given not in names:
            raise InputError(f"unknown {what} '{given}'{nearest(given, names)}")
    if objective == "mes" and engine != "slimming":
        raise InputError(f"objective 'mes' is one of slimming; engine '{engine}' minimises the cost within the limits")
    if evaluations is not None and engine not in EVALUATING:
        raise InputError(f"members are evaluated by the engines {' and '.join(EVALUATING)}, not by '{engine}'")
    if evaluate_best < 1:
        raise InputError(f"evaluate_best {evaluate_best}: at least one move of a step must be evaluated")
    table = table.calibrated(space.name, space.resolution)
    scores.check(space)
    graph, further = Graph(space), further_limits(limits or {}, table)
    least_ms, quickest = fastest(space, table, graph)
    if latency_ms is None and further:
        target_ms, reason = math.inf, "none, where something else is limited"
    else:
        target_ms, reason = (latency_ms, "as given") if latency_ms is not None else _default_target(space, table)
        if not math.isfinite(target_ms) or target_ms <= 0:
            raise InputError(f"latency target {target_ms} ms: expected a positive number")
    if target_ms < least_ms:
        raise InputError(f"latency target {target_ms:g} ms cannot be reached: the fastest member of space "
                         f"'{space.name}' ({_shape(quickest)}) takes {least_ms:.4g} ms on "
                         f"{table.device.name}")  # fmt: skip
    _check_reach(graph, further)
    return Problem(
        space, table, scores, target_ms, reason, engine, candidates, on_step, further, objective,
        study or StudySettings(), evaluations, evaluate_best, graph=graph,
    )  # fmt: skip


def _check_reach(graph: Graph, limits: Sequence[Limit]) -> None:
    """Raises InputError for a limit that no member keeps, with the smallest amount there is."""
    for limit in limits:
        amount, smallest = least(graph, limit.measure)
        if amount > limit.most:
            raise InputError(f"{limit} cannot be reached: the member of space '{graph.space.name}' with the least "
                             f"({_shape(smallest)}) has {limit.measure.text(amount)}")  # fmt: skip


def _shape(arch: Architecture) -> str:
    return f"widths {'-'.join(map(str, arch.widths))}, depths {'-'.join(map(str, arch.depths))}"


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
    "ENGINES", "Candidates", "Drop", "Evaluated", "Evaluations", "Exchange", "Found", "Localise", "Move", "Narrow",
    "Objective", "Problem", "Score", "Scores", "Step", "StudySettings", "default_scores", "fastest", "load_scores",
    "moves", "pose", "search", "solve",
]  # fmt: skip
