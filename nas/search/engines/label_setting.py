"""Least-cost paths through a graph under limits on what they take, to proven optimality: label
setting.

A label is a way to a node, with what it costs and takes. Labels that another one at the node beats
in everything go (dominance); so do those that cannot keep a limit even by the most frugal way on,
and those that cannot beat the best member known even if the limits were for sale at the prices of
the Lagrangian dual (Handler and Zang, "A dual algorithm for the constrained shortest path problem",
Networks 10, 1980). What remains contains an optimum.

Amounts are summed as whole numbers of a small unit: sums then do not depend on the order of their
terms, and ties of decimal fractions are ties.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.search.graph import Floats, Layered
from nas.search.limits import SMALL

Ints = NDArray[np.int64]

_CHUNK = 256
"""Labels of many amounts that are compared with others at a time: their table has to fit a
processor's cache."""

_SLACK = 1e-8
"""By what share of a limit a label may exceed it; whether its path keeps it is for the caller to
say."""
_SPREAD = 0.001
"""How far above the dual bound the optimum is sought at first, as a share of the largest cost there
is. The dual is seldom off by more; where it is, the search is repeated four times as far, which
costs less than many labels do."""
_CUTS = 60
"""Rounds of the dual. A dual that is not quite solved prunes less and proves as much."""


@dataclass(frozen=True)
class Resource:
    """What each arc takes of something (an array a layer), and how much a path may take; infinite
    where it is free.

    What it takes counts in whole numbers of `unit`.
    """

    weights: Sequence[Floats]
    most: float
    unit: float = SMALL

    @cached_property
    def scale(self) -> float:
        """Return the limit; where there is none, the most that a path can take."""
        return max(self.most if np.isfinite(self.most) else _longest(self.weights), SMALL)


@dataclass(frozen=True)
class Program:
    """Find the paths of least cost within the resources.

    Attributes:
        cost: of every arc, an array a layer.
        resources: at least one; of paths that cost the same, those that take less of the first one
            are better.
    """

    graph: Layered
    cost: Sequence[Floats]
    resources: Sequence[Resource]

    def solve(self, accept: Callable[[list[int]], bool]) -> list[int] | None:
        """Return the best path within the limits that `accept` accepts; None where there is none.

        `accept` recomputes what a path takes, for those that keep the limits to within rounding
        only.
        """
        prices, dual, incumbent = self._dual
        spread = _SPREAD * self._most_cost
        most = 2 * self._most_cost
        while dual <= most:
            bound = min(incumbent, dual + spread) + _SLACK * self._most_cost
            ends = self._labels(prices, bound)
            for number in np.lexsort((ends.amounts[0], ends.amounts[-1])):
                if ends.amounts[-1, number] * SMALL > bound:
                    # labels that cost more were dropped, so that this is not proven to be the next
                    # best
                    break
                path = ends.path(int(number))
                if accept(path):
                    return path
            if dual + spread > most:
                break
            spread *= 4
        return None

    def near(self, bound: float) -> Iterator[list[int]]:
        """Yield the paths within the limits that cost no more than `bound`, least of the first
        resource first.

        Left out are those that another one beats in every resource and in cost.
        """
        ends = self._labels(self._dual[0], bound)
        for number in np.lexsort((ends.amounts[-1], ends.amounts[0])):
            if ends.amounts[-1, number] * SMALL <= bound:
                yield ends.path(int(number))

    def front(self) -> list[list[int]]:
        """Return the paths of the Pareto front of the first resource against cost, ascending in the
        resource.

        Every member within the limits takes at least as much and costs at least as much as one of
        these.
        """
        ends = self._labels(None, np.inf)
        order = undominated(ends.amounts[[0, -1]])
        return [ends.path(int(number)) for number in order]

    @cached_property
    def _most_cost(self) -> float:
        """No path costs more than this, or less than its negative."""
        return _longest(self.cost)

    @cached_property
    def _shares(self) -> list[list[Floats]]:
        """Return the resources' weights as shares of their scales.

        What is more than the limit, or infinite, counts as twice the limit: no path within the
        limits has it.
        """
        return [[np.minimum(weight / r.scale, 2.0) for weight in r.weights] for r in self.resources]

    @cached_property
    def _costs(self) -> list[Floats]:
        """Return the cost of every arc, infinite for those that no path within the limits has."""
        costs = [cost.copy() for cost in self.cost]
        for shares in self._shares:
            for cost, share in zip(costs, shares, strict=True):
                cost[share > 1 + _SLACK] = np.inf
        return costs

    @cached_property
    def _dual(self) -> tuple[Floats, float, float]:
        """Return prices of the resources, the bound on the cost that they prove, and the cost of
        the best path met on the way.

        Kelley's cutting planes: the bound is concave in the prices, and every cheapest path at some
        prices is a plane above it. The bound is infinite where no path keeps each limit by itself.
        """
        count = len(self.resources)
        cuts = list[Floats]()
        sides = list[float]()
        prices = np.zeros(count)
        best = np.zeros(count)
        bound = -np.inf
        incumbent = np.inf
        for _ in range(_CUTS):
            path = self.graph.best(self._priced(prices))
            cost = path_sum(self._costs, path)
            over = np.array([path_sum(shares, path) - 1 for shares in self._shares])
            if not np.isfinite(cost):
                return prices, np.inf, np.inf
            if (over <= -_SLACK).all():
                incumbent = min(incumbent, cost)
            if cost + prices @ over > bound:
                best = prices
                bound = cost + float(prices @ over)
            cuts.append(over)
            sides.append(cost)
            plan = _highest(np.array(cuts), np.array(sides), 1000 * self._most_cost)
            if plan is None or plan[0] - bound < _SLACK * self._most_cost:
                break
            prices = plan[1:]
        return best, bound, incumbent

    def _priced(self, prices: Floats) -> list[Floats]:
        """Return cost of every arc with what it takes paid for."""
        return [
            cost
            + sum(price * shares[layer] for price, shares in zip(prices, self._shares, strict=True))
            for layer, cost in enumerate(self._costs)
        ]

    def _labels(self, prices: Floats | None, bound: float) -> _Labels:
        """Return all labels at the end that matter; with prices only those that may cost no more
        than `bound`."""
        graph = self.graph
        least = [graph.potentials(shares) for shares in self._shares]
        rest = None if prices is None else graph.potentials(self._priced(prices))
        amounts: dict[int, Ints] = {0: np.zeros((len(least) + 1, 1), dtype=np.int64)}
        steps: list[dict[int, _Origin]] = []
        for layer, taken in enumerate(self._whole):
            after = dict[int, Ints]()
            origins = dict[int, _Origin]()
            for node, arcs in self._into(layer, amounts):
                found, arc, label = _extended(amounts, self.graph.ends[layer][0], taken, arcs)
                used = [
                    row * (r.unit / r.scale) for r, row in zip(self.resources, found, strict=False)
                ]
                keep = np.ones(found.shape[1], dtype=bool)
                for shares, potential in zip(used, least, strict=True):
                    keep &= shares + potential[node] <= 1 + _SLACK
                if rest is not None and prices is not None:
                    paid = (
                        price * (shares - 1) for price, shares in zip(prices, used, strict=True)
                    )
                    keep &= found[-1] * SMALL + rest[node] + sum(paid) <= bound
                kept = np.flatnonzero(keep)
                kept = kept[undominated(found[:, kept])]
                after[node], origins[node] = found[:, kept], (arc[kept], label[kept])
            amounts = after
            steps.append(origins)
        nothing = np.zeros((len(least) + 1, 0), dtype=np.int64)
        return _Labels(graph, amounts.get(graph.nodes - 1, nothing), steps)

    def _into(self, layer: int, amounts: Container[int]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yield every node that arcs of a layer lead to, with those that a path within the limits
        may have."""
        tails, heads = self.graph.ends[layer]
        reached = np.array([tail in amounts for tail in tails.tolist()])
        arcs = np.flatnonzero(reached & np.isfinite(self._costs[layer]))
        arcs = arcs[np.argsort(heads[arcs], kind="stable")]
        nodes, starts = np.unique(heads[arcs], return_index=True)
        yield from zip(nodes.tolist(), np.split(arcs, starts[1:]), strict=False)

    @cached_property
    def _whole(self) -> list[Ints]:
        """For every layer, what its arcs take and cost in whole units; a row a resource, the last
        one for cost."""
        layers = []
        for layer, cost in enumerate(self._costs):
            rows = [np.minimum(r.weights[layer], 2 * r.scale) / r.unit for r in self.resources]
            rows.append(np.where(np.isfinite(cost), cost, 0.0) / SMALL)
            layers.append(np.round(np.array(rows)).astype(np.int64))
        return layers


_Origin = tuple[NDArray[np.int32], NDArray[np.int32]]
"""For every label of a node: the arc that it came by, and which label of the arc's tail it came
from."""


@dataclass(frozen=True)
class _Labels:
    """The labels at the end, and how each came there."""

    graph: Layered
    amounts: Ints
    steps: list[dict[int, _Origin]]

    def path(self, number: int) -> list[int]:
        node = self.graph.nodes - 1
        path = list[int]()
        for (tails, _), origins in zip(
            reversed(self.graph.ends), reversed(self.steps), strict=True
        ):
            came, index = origins[node]
            path.append(int(came[number]))
            node = int(tails[path[-1]])
            number = int(index[number])
        return path[::-1]


def _extended(
    amounts: Mapping[int, Ints], tails: NDArray[np.intp], taken: Ints, arcs: NDArray[np.intp]
) -> tuple[Ints, NDArray[np.int32], NDArray[np.int32]]:
    """Return the labels at the tails of these arcs, carried along them: the amounts, and of each
    its arc and old number."""
    ways = [
        amounts[tail] + taken[:, arc : arc + 1]
        for tail, arc in zip(tails[arcs].tolist(), arcs, strict=True)
    ]
    counts = [way.shape[1] for way in ways]
    numbers = [np.arange(count, dtype=np.int32) for count in counts]
    return (
        np.concatenate(ways, axis=1),
        np.repeat(arcs, counts).astype(np.int32),
        np.concatenate(numbers),
    )


def _highest(slopes: Floats, heights: Floats, most: float) -> Floats | None:
    """Return the highest point below planes, (value, prices): prices are from 0 to `most`.

    Args:
        slopes: of each plane by each price (planes, prices).
        heights: of each plane where all prices are 0 (planes,).
    """
    if slopes.shape[1] > 1:
        from scipy.optimize import linprog

        objective = [-1.0] + [0.0] * slopes.shape[1]
        below = np.column_stack([np.ones(len(heights)), -slopes])
        limits = [(None, None), *[(0.0, most)] * slopes.shape[1]]
        plan = linprog(objective, A_ub=below, b_ub=heights, bounds=limits)
        return None if plan.x is None else np.asarray(plan.x)
    # Planes over one price are lines. The highest point below them is where a rising one meets a
    # falling one, or at an end. No linear program is needed, whose solver takes long to import.
    slope = slopes[:, 0]
    rising = slope > 0
    falling = slope < 0
    apart = heights[falling] - heights[rising][:, None]  # (rising, falling)
    meetings = (apart / (slope[rising][:, None] - slope[falling])).ravel()
    prices = np.sort(np.clip(np.append(meetings, [0.0, most]), 0.0, most))
    values = (heights + slope * prices[:, None]).min(axis=1)  # (prices, planes) -> (prices,)
    best = int(np.argmax(values))
    return np.array([values[best], prices[best]])


def undominated(amounts: Ints) -> NDArray[np.intp]:
    """Return the columns that no other one beats or equals in all rows, in ascending order of the
    first row; one of equals."""
    order = np.lexsort(amounts[::-1])
    if len(amounts) == 2:
        costs = amounts[1, order]
        least = np.minimum.accumulate(costs)
        better = np.concatenate([[True], costs[1:] < least[:-1]])[: len(order)]
        return np.asarray(order[better], dtype=np.intp)
    if len(amounts) == 3:
        return np.asarray(
            order[_staircase(amounts[1, order].tolist(), amounts[2, order].tolist())], dtype=np.intp
        )
    rest = amounts[:, order]
    kept = np.zeros(0, dtype=np.intp)
    for start in range(0, len(order), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(order)))
        chunk = chunk[~_beaten(rest, kept, chunk)]
        chunk = chunk[~_beaten(rest, chunk, chunk)]
        kept = np.concatenate([kept, chunk])
    return np.asarray(order[kept], dtype=np.intp)


def _beaten(amounts: Ints, others: NDArray[np.intp], chunk: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return for every label of a chunk whether one of the others comes before it and is no worse
    in any amount."""
    beaten = others[:, None] < chunk[None, :]  # (others, chunk)
    for row in amounts:
        beaten &= row[others][:, None] <= row[chunk][None, :]
    return np.asarray(beaten.any(axis=0), dtype=np.bool_)


def _staircase(seconds: Sequence[int], thirds: Sequence[int]) -> list[int]:
    """Return the numbers of the labels that no earlier one beats or equals in both amounts.

    Labels come in ascending order of a first amount, so that only earlier ones can beat one in all
    three. Of those so far the minima form a staircase: ascending in the second amount, descending
    in the third (Kung, Luccio and Preparata, Journal of the ACM 22, 1975).
    """
    kept: list[int] = []
    xs: list[int] = []
    ys: list[int] = []
    for number, (x, y) in enumerate(zip(seconds, thirds, strict=True)):
        at = bisect_right(xs, x)
        if at and ys[at - 1] <= y:
            continue
        kept.append(number)
        # The steps that this one beats are those to its right which are not lower.
        start = bisect_left(xs, x)
        end = start
        while end < len(ys) and ys[end] >= y:
            end += 1
        xs[start:end] = [x]
        ys[start:end] = [y]
    return kept


def path_sum(weights: Sequence[Floats], path: Sequence[int]) -> float:
    return float(sum(weight[arc] for weight, arc in zip(weights, path, strict=True)))


def _longest(weights: Sequence[Floats]) -> float:
    """No path weighs more than this, or less than its negative; not 0."""
    return (
        sum(float(np.abs(weight[np.isfinite(weight)]).max(initial=0.0)) for weight in weights)
        or 1.0
    )
