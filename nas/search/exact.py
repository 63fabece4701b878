"""The exact engine: the member of least cost within the limits, and the whole Pareto front, proven best.

With scores that add up and a table that adds up this is a multiple-choice knapsack under the rules of the space, which
`nas.search.graph` makes a graph and `nas.search.labels` solves. It minimises `Scores.cost` itself: every arc costs
what `Scores` says that its choice adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from nas.accuracy import Scores
from nas.errors import InputError
from nas.search.difference import steps_to
from nas.search.fastest import latencies
from nas.search.graph import Arc, Floats, Graph
from nas.search.labels import Program, Resource, path_sum
from nas.search.limits import Limit
from nas.search.problem import Found, Problem
from nas.space import Architecture

_APART = 1e-7
"""Latencies on a front that differ by a smaller share count as one, where there are further limits."""


@dataclass(frozen=True)
class FrontPoint:
    """A member that no other one beats in both latency (ms) and cost (points)."""

    ms: float
    cost: float
    architecture: Architecture


def exact(problem: Problem) -> Found:
    """The member of least cost within the problem's limits; of several that cost the same, one of the fastest.

    Its trace are the moves that turn the space's largest member into it.

    Raises:
        InputError: when no member keeps all limits together, though some keep each of them.
    """
    graph, limits = problem.graph, (problem.latency, *problem.limits)
    allowed = _allowed(graph, problem.limits)
    resources = _resources(problem, allowed)
    program = Program(graph, _costs(graph, problem.scores), resources)
    path = program.solve(lambda path: all(limit.holds(graph.member(path)) for limit in limits))
    if path is None:
        raise _contradiction(problem, resources)
    arch = graph.member(path, f"{problem.space.name}-exact")
    steps = steps_to(problem, arch)
    if problem.on_step:
        for step in steps:
            problem.on_step(step)
    return Found(arch, problem.table.total_ms(arch), problem.scores.cost(arch), steps)


def front(problem: Problem) -> tuple[FrontPoint, ...]:
    """The whole Pareto front of latency against cost within the other limits, fastest first, whatever the target."""
    graph, space = problem.graph, problem.space
    resources, costs = _resources(problem, _allowed(graph, problem.limits)), _costs(graph, problem.scores)
    if len(resources) > 1:
        paths = _one_by_one(problem, costs, resources)
    else:
        paths = Program(graph, costs, (replace(resources[0], most=inf),)).front()
    members = [graph.member(path, f"{space.name}-front{number}") for number, path in enumerate(paths, start=1)]
    return tuple(FrontPoint(problem.table.total_ms(arch), problem.scores.cost(arch), arch) for arch in members)


def _one_by_one(problem: Problem, costs: Sequence[Floats], resources: Sequence[Resource]) -> list[list[int]]:
    """The paths of the front, fastest first: that of least cost, then that of least cost among the faster, and so on.

    Labels of three amounts and more seldom dominate one another; those that a single solution needs stay few.
    """
    ms, *others = resources
    paths, below = list[list[int]](), inf

    def accept(path: list[int]) -> bool:
        return path_sum(ms.weights, path) < below and all(
            limit.holds(problem.graph.member(path)) for limit in problem.limits
        )

    while (path := Program(problem.graph, costs, (replace(ms, most=below), *others)).solve(accept)) is not None:
        paths.append(path)
        below = path_sum(ms.weights, path) * (1 - _APART)
    return paths[::-1]


def _costs(graph: Graph, scores: Scores) -> list[Floats]:
    """What every arc adds to `Scores.cost`."""

    def cost(arc: Arc) -> float:
        stage, position = arc.place.stage, arc.place.position
        if stage is None:
            return scores.head_cost(arc.block)
        if stage < 0:
            return scores.stem_cost(arc.block)
        if position is None:
            return scores.entry_cost(stage, arc.block, arc.operations[0].input.channels)
        return scores.block_cost(stage, position, arc.block, arc.width)

    return graph.weigh(cost)


def _allowed(graph: Graph, limits: Iterable[Limit]) -> list[Floats]:
    """Zero for arcs whose operations keep the limits on peaks by themselves, infinite for the others.

    A member keeps such a limit where all of its operations do.
    """
    allowed = [np.zeros(len(layer)) for layer in graph.layers]
    for limit in limits:
        if limit.measure.peak:
            for penalties, amounts in zip(allowed, graph.weigh(limit.measure.of), strict=True):
                penalties[amounts > limit.most] = inf
    return allowed


def _resources(problem: Problem, allowed: list[Floats]) -> list[Resource]:
    """Latency first, then the other limits on sums."""
    graph, base = problem.graph, problem.table.base_ms
    ms = [weights + penalties for weights, penalties in zip(latencies(graph, problem.table), allowed, strict=True)]
    summed = [limit for limit in problem.limits if not limit.measure.peak]
    return [
        Resource(ms, problem.target_ms - base),
        *(
            Resource(graph.weigh(limit.measure.of), limit.most - limit.measure.base, limit.measure.step)
            for limit in summed
        ),
    ]


def _contradiction(problem: Problem, resources: list[Resource]) -> InputError:
    """Why limits that can be kept one by one cannot be kept together."""
    graph, (ms, *others) = problem.graph, resources
    program = Program(graph, ms.weights, [Resource(ms.weights, inf), *others])
    path = program.solve(lambda path: all(limit.holds(graph.member(path)) for limit in problem.limits))
    named = " and ".join(map(str, problem.limits))
    if path is None:
        return InputError(f"no member of space '{problem.space.name}' keeps {named} together")
    least_ms = problem.table.total_ms(graph.member(path))
    return InputError(f"latency target {problem.target_ms:g} ms cannot be reached within {named}: there the fastest "
                      f"member of space '{problem.space.name}' takes {least_ms:.4g} ms")  # fmt: skip
