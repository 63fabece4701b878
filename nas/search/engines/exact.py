"""The exact engine: the member of least cost within the limits, and the whole Pareto front, proven
best.

With scores that add up over stages and a table that adds up this is a multiple-choice knapsack
under the rules of the space. `nas.search.graph` makes it a graph, `nas.search.engines.condensed`
prices whole stages where the scores do, and `nas.search.engines.label_setting` solves it. It
minimises the cost of `Scores.cautious()`: what might be lost where the scores know little counts as
lost.

Members whose cost is known by itself (`Scores.exceptions`, the published ones) are left out of the
graph's paths and compared with the best path: the optimum is the better of the two.

Ties: costs that differ by less than their standard error are not known to differ, so that of these
    members the faster
one is taken, then the one with fewer parameters. A tie is never wider than `TIE`, and a published
member within the limits is never passed over for one that costs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np

from nas.accuracy import Accuracy
from nas.errors import InputError
from nas.search.engines.condensed import Condensed
from nas.search.engines.label_setting import Program, Resource, path_sum
from nas.search.engines.prices import positional
from nas.search.fastest import latencies
from nas.search.graph import Arc, Floats, Graph, Layered, same_head
from nas.search.limits import Limit
from nas.search.problem import Found, Problem
from nas.search.trace import steps_to
from nas.space import Architecture

TIE = 0.05
"""Points of accuracy by which members that tie differ at most."""
_APART = 1e-7
"""Latencies on a front that differ by a smaller share count as one, where there are further limits.
"""
_EQUAL = 1e-9
"""Costs in points that differ by less are equal but for rounding."""


@dataclass(frozen=True)
class FrontPoint:
    """A member that no other one beats in both latency (ms) and cost (points).

    Attributes:
        cost: by the scores. What no other member beats is the cautious cost, which the search
            minimises.
        accuracy: expected, where the scores know a level.
    """

    ms: float
    cost: float
    architecture: Architecture
    accuracy: Accuracy | None = None


def exact(problem: Problem) -> Found:
    """Return the member of least cost within the problem's limits, or the fastest one of at most
    its `max_drop`.

    Its trace are the moves that turn the space's largest member into it.

    Raises:
        InputError: when no member keeps all limits together, though some keep each of them.
    """
    model = _Model(problem)
    arch = model.best() if problem.max_drop is None else model.quickest(problem.max_drop)
    arch = replace(arch, name=f"{problem.space.name}-exact")
    steps = steps_to(problem, arch)
    if problem.on_step:
        for step in steps:
            problem.on_step(step)
    return problem.found(arch, steps)


def front(problem: Problem) -> tuple[FrontPoint, ...]:
    """Return the whole Pareto front of latency against cost within the other limits, fastest first.

    The target does not matter. Costs are cautious ones, as those of `exact`, which finds a member
    of this front at every target but for ties.
    """
    model = _Model(replace(problem, target_ms=inf, max_drop=None))
    table = problem.table
    scores = problem.scores
    members = [*model.front_paths(), *model.exceptions]
    priced = sorted(
        ((table.total_ms(arch), model.cost(arch), arch) for arch in members),
        key=lambda each: each[:2],
    )
    points: list[FrontPoint] = []
    least = inf
    for ms, cost, arch in priced:
        if cost < least:
            least = cost
            named = replace(arch, name=f"{problem.space.name}-front{len(points) + 1}")
            accuracy = scores.accuracy(named) if scores.absolute else None
            points.append(FrontPoint(ms, scores.cost(named), named, accuracy))
    return tuple(points)


class _Model:
    """A problem as a search for paths of least cost under limits.

    Attributes:
        exceptions: the members of known cost that keep the limits.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._cautious = problem.cautious_scores
        exceptions = tuple(self._cautious.exceptions())
        known = problem.graph.exceptions == exceptions
        self._graph = graph = problem.graph if known else Graph(problem.space, exceptions)
        counted = any(
            self._counts(arc)
            for layer in graph.layers
            for arc in layer
            if arc.place.position is not None
        )
        cost = self._costs(whole_stages=not counted)
        resources = self._resources(_allowed(graph, problem.limits))
        self._positional = positional(problem.space, self._cautious)
        self._condensed: Condensed | None = None
        self._layered: Layered = graph
        if counted:
            self._condensed = Condensed(
                graph, cost, resources, self._counts, self._cautious.stage_cost
            )
            self._layered = self._condensed
            cost = self._condensed.cost
            resources = self._condensed.resources
        self._cost = cost
        self._all_resources = resources

    def cost(self, arch: Architecture) -> float:
        """Return the cost that is minimised."""
        return self._cautious.cost(arch)

    def best(self) -> Architecture:
        """Return the member of least cost within the limits; of those that tie the fastest."""
        program = Program(self._layered, self._cost, self._all_resources)
        path = program.solve(self._keeps_limits)
        members = [*([self._member(path)] if path is not None else []), *self.exceptions]
        if not members:
            raise self._contradiction()
        best = min(
            members,
            key=lambda arch: (round(self.cost(arch), 9), self._problem.table.total_ms(arch)),
        )
        return self._tied(program, best)

    def quickest(self, max_drop: float) -> Architecture:
        """Return the fastest member within the limits that costs no more than `max_drop`.

        Cost and latency change their roles: milliseconds are minimised, points are a resource.
        """
        ms, *others = self._all_resources
        # Resources count what is taken, which is not negative. So each layer's least cost is taken
        # from all its arcs and from the limit: every path has one arc of each layer.
        least = [float(cost[np.isfinite(cost)].min(initial=0.0)) for cost in self._cost]
        finite = [np.isfinite(cost) for cost in self._cost]
        shifted = [cost - low for cost, low in zip(self._cost, least, strict=True)]
        weights = [np.where(known, m, inf) for known, m in zip(finite, ms.weights, strict=True)]
        room = max_drop - sum(least)
        members = [arch for arch in self.exceptions if self.cost(arch) <= max_drop + _EQUAL]
        if room >= -_EQUAL:
            points = Resource(shifted, max(room, 0.0) + _EQUAL)

            def accept(path: list[int]) -> bool:
                return self.cost(self._member(path)) <= max_drop + _EQUAL and self._keeps_limits(
                    path
                )

            path = Program(self._layered, weights, [points, ms, *others]).solve(accept)
            members += [self._member(path)] if path is not None else []
        if not members:
            raise self._out_of_reach()
        return min(
            members,
            key=lambda arch: (self._problem.table.total_ms(arch), round(self.cost(arch), 9)),
        )

    def front_paths(self) -> Iterator[Architecture]:
        """Yield the members of the front of the graph's paths."""
        if len(self._all_resources) > 1:
            yield from map(self._member, self._one_by_one())
            return
        free = replace(self._all_resources[0], most=inf)
        for path in Program(self._layered, self._cost, (free,)).front():
            yield self._member(path)

    @cached_property
    def exceptions(self) -> list[Architecture]:
        """Return the members of known cost within the limits, at the size of the space."""
        space = self._problem.space
        members = []
        for exception in self._cautious.exceptions():
            # A head for another task makes another network of it, whose cost is the sum of its
            # parts.
            if any(same_head(exception.head, head) for head in space.heads):
                arch = space.place(exception.at(space.resolution, space.classes))
                if space.contains(arch) and self._holds(arch):
                    members.append(arch)
        return members

    @property
    def _limits(self) -> tuple[Limit, ...]:
        return (self._problem.latency, *self._problem.limits)

    def _keeps_limits(self, path: list[int]) -> bool:
        return self._holds(self._member(path))

    def _member(self, path: Sequence[int]) -> Architecture:
        """Return the architecture of a path, its blocks where published members have them if
        nothing else decides."""
        arcs = self._condensed.expanded(path) if self._condensed else path
        arch = self._graph.member(arcs)
        return arch if self._positional else self._problem.space.place(arch.compact())

    def _tied(self, program: Program, best: Architecture) -> Architecture:
        """Return the fastest member whose cost cannot be told from that of `best`."""
        scores = self._problem.scores
        table = self._problem.table
        if not scores.difference_error(best, self._problem.space.smallest()):
            return best
        most = min((scores.cost(arch) for arch in self.exceptions), default=inf)
        least = self.cost(best)

        def ties(arch: Architecture) -> bool:
            behind = self.cost(arch) - least
            return (
                scores.cost(arch) <= most + _EQUAL
                and behind <= min(scores.difference_error(best, arch), TIE) + _EQUAL
            )

        paths = program.near(least + TIE + _EQUAL)
        fastest_path = next(
            (arch for arch in map(self._member, paths) if self._holds(arch) and ties(arch)), None
        )
        tied = [arch for arch in self.exceptions if ties(arch)]
        tied += [arch for arch in (best, fastest_path) if arch is not None]
        return min(tied, key=lambda arch: (table.total_ms(arch), arch.params))

    def _holds(self, arch: Architecture) -> bool:
        return all(limit.holds(arch) for limit in self._limits)

    def _one_by_one(self) -> list[list[int]]:
        """Return the paths of the front: that of least cost, then that of least cost among the
        faster, and so on.

        Labels of three amounts and more seldom dominate one another; those that a single solution
        needs stay few.
        """
        ms, *others = self._all_resources
        paths = list[list[int]]()
        below = inf

        def accept(path: list[int]) -> bool:
            arch = self._member(path)
            return path_sum(ms.weights, path) < below and all(
                limit.holds(arch) for limit in self._problem.limits
            )

        while True:
            path = Program(self._layered, self._cost, (replace(ms, most=below), *others)).solve(
                accept
            )
            if path is None:
                return paths[::-1]
            paths.append(path)
            below = path_sum(ms.weights, path) * (1 - _APART)

    def _counts(self, arc: Arc) -> tuple[int, ...]:
        return self._cautious.counts(arc.place.stage or 0, arc.block)

    def _costs(self, whole_stages: bool) -> list[Floats]:
        """Return what every arc adds to the cost; infinite for the last ones of exceptions, which
        are no such sums.

        With `whole_stages`, entries carry what their stages cost, where that depends on nothing but
        the width.
        """
        judge = self._cautious

        def cost(arc: Arc) -> float:
            stage = arc.place.stage
            position = arc.place.position
            if stage is None:
                if arc.place.part == "stem":
                    return judge.stem_cost(arc.entry)
                return inf if arc.exception else judge.head_cost(arc.classifier)
            if position is not None:
                return judge.block_cost(stage, position, arc.block, arc.width)
            whole = judge.stage_cost(stage, arc.entry.width, ()) if whole_stages else 0.0
            return judge.entry_cost(stage, arc.entry, arc.operations[0].input.channels) + whole

        return self._graph.weigh(cost)

    def _resources(self, allowed: list[Floats]) -> list[Resource]:
        """Return latency first, then the other limits on sums."""
        problem = self._problem
        graph = self._graph
        base = problem.table.base_ms
        ms = [
            weights + penalties
            for weights, penalties in zip(latencies(graph, problem.table), allowed, strict=True)
        ]
        summed = [limit for limit in problem.limits if not limit.measure.peak]
        return [
            Resource(ms, problem.target_ms - base),
            *(
                Resource(
                    graph.weigh(limit.measure.of),
                    limit.most - limit.measure.base,
                    limit.measure.step,
                )
                for limit in summed
            ),
        ]

    def _contradiction(self) -> InputError:
        """Return why limits that can be kept one by one cannot be kept together."""
        problem, (ms, *others) = self._problem, self._all_resources
        program = Program(self._layered, ms.weights, [Resource(ms.weights, inf), *others])

        def accept(path: list[int]) -> bool:
            arch = self._member(path)
            return all(limit.holds(arch) for limit in problem.limits)

        path = program.solve(accept)
        named = " and ".join(map(str, problem.limits))
        if path is None:
            return InputError(f"no member of space '{problem.space.name}' keeps {named} together")
        least_ms = problem.table.total_ms(self._member(path))
        return InputError(
            f"latency target {problem.target_ms:g} ms cannot be reached within {named}: there the "
            f"fastest member of space '{problem.space.name}' takes {least_ms:.4g} ms"
        )

    def _out_of_reach(self) -> InputError:
        """Return what the most accurate member within the limits has, where that is too little."""
        problem = self._problem
        best = self.best()
        shape = (
            f"widths {'-'.join(map(str, best.widths))}, depths {'-'.join(map(str, best.depths))}"
        )
        cost = self.cost(best)
        within = " within the limits" if self._problem.every_limit else ""
        if problem.min_accuracy is None:
            drop = problem.max_drop or 0.0
            asked = drop if problem.asked_drop is None else problem.asked_drop
            lost = cost + asked - drop
            return InputError(
                f"max_drop {asked:g} points cannot be reached: the most accurate member of "
                f"space '{problem.space.name}'{within} ({shape}) loses {lost:.4g} points"
            )
        reached = problem.min_accuracy + (problem.max_drop or 0.0) - cost
        return InputError(
            f"min_accuracy {problem.min_accuracy:g} % cannot be reached: the most accurate member"
            f" of space '{problem.space.name}'{within} ({shape}) is expected to have {reached:.4g}"
            f" % {problem.scores.metric}"
        )


def _allowed(graph: Graph, limits: Iterable[Limit]) -> list[Floats]:
    """Return zero for arcs whose operations keep the limits on peaks by themselves, infinite for
    the others.

    A member keeps such a limit where all of its operations do.
    """
    allowed = [np.zeros(len(layer)) for layer in graph.layers]
    for limit in limits:
        if limit.measure.peak:
            for penalties, amounts in zip(allowed, graph.weigh(limit.measure.of), strict=True):
                penalties[amounts > limit.most] = inf
    return allowed
