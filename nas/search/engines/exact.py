"""The engine `exact`: the proven optimum within the limits, and the whole Pareto front.

`nas.search.solve` calls `exact`; `nas search --front` and several devices call `front`.

Scores add up over stages and tables add up over operations, so that a search is a multiple-choice
knapsack under the rules of the space. `nas.search.graph` turns it into a graph,
`nas.search.engines.condensed` prices whole stages where the scores do, and
`nas.search.engines.label_setting` solves it. The engine minimises the cost of `Scores.cautious()`,
which counts points that may be lost outside of the data as lost.

Members whose cost is known by itself (`Scores.exceptions`, the published ones) are left out of the
graph's paths. They are compared with the best path: the optimum is the better of the two.

Ties: costs that differ by less than their standard error are not known to differ. Of such members
the fastest one is taken, then the one with the fewest parameters. A tie is never wider than `TIE`,
and a published member within the limits is never passed over for one that costs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np

from nas.accuracy import Accuracy
from nas.search.engines.condensed import Condensed
from nas.search.engines.label_setting import Program, Resource, path_sum
from nas.search.engines.prices import positional
from nas.search.fastest import latencies
from nas.search.graph import Arc, Floats, Graph, Layered, same_head
from nas.search.limits import Limit, rounded
from nas.search.problem import Found, OutOfReach, Problem
from nas.search.trace import steps_to
from nas.space import Architecture

TIE = 0.05
"""Maximum difference in cost between members that tie, in points."""
_APART = 1e-7
"""Latencies on a front that differ by a smaller share count as equal (with further limits only)."""
_EQUAL = 1e-9
"""Costs that differ by fewer points are equal up to rounding."""


@dataclass(frozen=True)
class FrontPoint:
    """A member that no other one beats in both latency and cautious cost.

    Attributes:
        ms: predicted latency.
        cost: expected cost in points; the front itself is that of the cautious cost.
        architecture: the member.
        accuracy: expected accuracy, where the scores know a level.
    """

    ms: float
    cost: float
    architecture: Architecture
    accuracy: Accuracy | None = None


def exact(problem: Problem) -> Found:
    """Return the member of least cost within the limits, or the fastest within `max_drop`.

    The trace lists the moves that turn the space's largest member into it.

    Raises:
        OutOfReach: no member keeps all limits together, though each limit can be kept alone.
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
    """Return the Pareto front of latency against cost within the other limits, fastest first.

    The latency target is ignored. The front is that of the cautious cost, as `exact` minimises it:
    at every target `exact` returns a member of this front, or one that ties with it.
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
    # In ascending latency, a member is on the front where it costs less than all faster ones.
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

    Args:
        problem: a checked one (`nas.search.pose`).
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._cautious = problem.cautious_scores
        exceptions = tuple(self._cautious.exceptions())
        # The problem's graph was made for its own scores. Engine `learned` replaces the scores, and
        # with them the members whose cost is known by itself.
        known = problem.graph.exceptions == exceptions
        self._graph = graph = problem.graph if known else Graph(problem.space, exceptions)
        # Whether some block adds to the sums that a stage's cost depends on. If none does, the cost
        # of a stage is a function of its width alone, and its entry arc can carry it.
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
                graph,
                cost,
                resources,
                self._counts,
                stage_costs=self._cautious.stage_costs,
                ordered=not self._positional,
            )
            self._layered = self._condensed
            cost = self._condensed.cost
            resources = self._condensed.resources
        self._cost = cost
        self._all_resources = resources

    def cost(self, arch: Architecture) -> float:
        """Return the cost that is minimised, in points."""
        return self._cautious.cost(arch)

    def best(self) -> Architecture:
        """Return the member of least cost within the limits, or the fastest that ties with it."""
        program = Program(self._layered, self._cost, self._all_resources)
        path = program.solve(self._keeps_limits)
        members = [*([self._member(path)] if path is not None else []), *self.exceptions]
        if not members:
            raise self._contradiction()
        # Costs that are equal up to rounding are decided by latency.
        best = min(
            members,
            key=lambda arch: (round(self.cost(arch), 9), self._problem.table.total_ms(arch)),
        )
        return self._tied(program, best)

    def quickest(self, max_drop: float) -> Architecture:
        """Return the fastest member within the limits that costs at most `max_drop` points.

        Cost and latency swap their roles: milliseconds are minimised, points are a resource.

        Raises:
            OutOfReach: no member within the limits is as accurate as asked for.
        """
        ms, *others = self._all_resources
        # Amounts of a resource are not negative, costs may be. Every path has one arc per layer, so
        # each layer's least cost is subtracted from its arcs and from the limit.
        least = [float(cost[np.isfinite(cost)].min(initial=0.0)) for cost in self._cost]
        # Arcs of infinite cost, the last ones of exceptions, stay forbidden.
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
        """Yield the members on the front of the graph's paths, without exceptions."""
        if len(self._all_resources) > 1:
            yield from map(self._member, self._one_by_one())
            return
        free = replace(self._all_resources[0], most=inf)
        for path in Program(self._layered, self._cost, (free,)).front():
            yield self._member(path)

    @cached_property
    def exceptions(self) -> list[Architecture]:
        """Return the members of known cost that keep the limits, at the size of the space."""
        space = self._problem.space
        members = []
        for exception in self._cautious.exceptions():
            # With a head for another task it is another network, whose cost is the sum of its
            # parts like any other's.
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
        """Return the architecture of a path.

        Where costs belong to no position, its blocks are put where published members have them.
        """
        arcs = self._condensed.expanded(path) if self._condensed else path
        arch = self._graph.member(arcs)
        return arch if self._positional else self._problem.space.place(arch.compact())

    def _tied(self, program: Program, best: Architecture) -> Architecture:
        """Return the fastest member whose cost is not known to differ from that of `best`."""
        scores = self._problem.scores
        table = self._problem.table
        # Scores that know no errors of differences (recorded ones) have no ties.
        if not scores.difference_error(best, self._problem.space.smallest()):
            return best
        # No tie may pass over the best published member for one that is expected to be worse.
        most = min((scores.cost(arch) for arch in self.exceptions), default=inf)
        least = self.cost(best)

        def ties(arch: Architecture) -> bool:
            behind = self.cost(arch) - least
            return (
                scores.cost(arch) <= most + _EQUAL
                and behind <= min(scores.difference_error(best, arch), TIE) + _EQUAL
            )

        # `near` goes from fast to slow, so the first path that ties is the fastest of them.
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
        """Return the paths of the front, solved one by one from the most accurate to the fastest.

        Labels of three amounts and more seldom dominate one another, so that a whole front at once
        would keep too many of them. A single solution needs few.
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
            # The next one has to be faster by more than rounding.
            paths.append(path)
            below = path_sum(ms.weights, path) * (1 - _APART)

    def _counts(self, arc: Arc) -> tuple[int, ...]:
        return self._cautious.counts(arc.place.stage or 0, arc.block)

    def _costs(self, whole_stages: bool) -> list[Floats]:
        """Return what every arc adds to the cost, one array per layer.

        The last arcs of exceptions are infinite: the cost of these members is not such a sum.

        Args:
            whole_stages: entries carry the costs of their stages, which depend on the width alone.
        """
        scores = self._cautious

        def cost(arc: Arc) -> float:
            stage = arc.place.stage
            position = arc.place.position
            if stage is None:
                if arc.place.part == "stem":
                    return scores.stem_cost(arc.entry)
                return inf if arc.exception else scores.head_cost(arc.classifier)
            if position is not None:
                return scores.block_cost(stage, position, arc.block, arc.width)
            whole = scores.stage_cost(stage, arc.entry.width, ()) if whole_stages else 0.0
            # The first operation may be a change of layout, which keeps the channels that come in.
            return scores.entry_cost(stage, arc.entry, arc.operations[0].input.channels) + whole

        return self._graph.weigh(cost)

    def _resources(self, allowed: list[Floats]) -> list[Resource]:
        """Return latency first, then the other limits on sums.

        Args:
            allowed: 0 or infinite, added to the latencies: how limits on peaks forbid arcs.
        """
        problem = self._problem
        graph = self._graph
        base = problem.table.base_ms
        ms = [
            weights + penalties
            for weights, penalties in zip(latencies(graph, problem.table), allowed, strict=True)
        ]
        summed = [limit for limit in problem.limits if not limit.measure.peak]
        return [
            # Tables round sums, paths do not. `_keeps_limits` has the last word.
            Resource(ms, problem.target_ms - base + _EQUAL),
            *(
                Resource(
                    graph.weigh(limit.measure.of),
                    limit.most - limit.measure.base,
                    limit.measure.step,
                )
                for limit in summed
            ),
        ]

    def _contradiction(self) -> OutOfReach:
        """Return an error that says which limits cannot be kept together."""
        problem = self._problem
        # The fastest member within the other limits shows how far the target is out of reach. The
        # model has dropped the ways that are too slow, so another one without the target is made.
        model = _Model(replace(problem, target_ms=inf))
        ms, *others = model._all_resources
        program = Program(model._layered, ms.weights, [ms, *others])

        def accept(path: list[int]) -> bool:
            arch = model._member(path)
            return all(limit.holds(arch) for limit in problem.limits)

        path = program.solve(accept)
        named = " and ".join(map(str, problem.limits))
        within = f" within {named}: there" if named else ":"
        if path is None:
            return OutOfReach(f"no member of space '{problem.space.name}' keeps {named} together")
        least_ms = problem.table.total_ms(model._member(path))
        return OutOfReach(
            f"latency target {problem.target_ms:g} ms cannot be reached{within} the fastest"
            f" member of space '{problem.space.name}' takes {rounded(least_ms, up=True)} ms"
        )

    def _out_of_reach(self) -> OutOfReach:
        """Return an error with the accuracy of the most accurate member within the limits."""
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
            return OutOfReach(
                f"max_drop {asked:g} points cannot be reached: the most accurate member of "
                f"space '{problem.space.name}'{within} ({shape}) loses {lost:.4g} points"
            )
        reached = problem.min_accuracy + (problem.max_drop or 0.0) - cost
        return OutOfReach(
            f"min_accuracy {problem.min_accuracy:g} % cannot be reached: the most accurate member"
            f" of space '{problem.space.name}'{within} ({shape}) is expected to have {reached:.4g}"
            f" % {problem.scores.metric}"
        )


def _allowed(graph: Graph, limits: Iterable[Limit]) -> list[Floats]:
    """Return 0 for arcs whose operations keep the limits on peaks, infinite for the others.

    A peak is that of the largest operation, so a member keeps its limit if all its operations do.
    """
    allowed = [np.zeros(len(layer)) for layer in graph.layers]
    for limit in limits:
        if limit.measure.peak:
            for penalties, amounts in zip(allowed, graph.weigh(limit.measure.of), strict=True):
                penalties[amounts > limit.most] = inf
    return allowed
