"""Solve constrained shortest paths to proven optimality by label setting; the exact engine calls it.

The problem, for a path x of one arc per layer with cost c and resources a_1 .. a_k of limits b:

    minimise  c(x)   subject to  a_i(x) <= b_i  for every resource i

A label is a partial path to a node, with its cost and its amounts. Three rules drop labels:

- dominance: another label at the node is no worse in cost and in every resource;
- feasibility: the amount so far and the smallest possible remainder exceed a limit;
- bounding: at the prices of the Lagrangian dual, the cost so far, the price of what is used and the
  smallest possible remainder exceed the cost of the best path known (Handler and Zang, "A dual
  algorithm for the constrained shortest path problem", Networks 10, 1980).

None of them drops the last label that leads to an optimum, so what remains contains one.

Amounts are summed as whole numbers of a small unit. Sums of floats depend on the order of their
terms; sums of integers do not, so that equal decimal fractions tie exactly.
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
"""Labels of four amounts and more that are compared with others at a time.

The table of comparisons has to fit a processor's cache."""

LIMIT_SLACK = 1e-8
"""Share of a limit by which a label may exceed it because of rounding.

The caller recomputes whether the path keeps the limit (`accept`)."""
_SPREAD = 0.001
"""First distance above the dual bound at which the optimum is sought, as a share of the largest cost.

The duality gap is seldom larger. Where it is, the search is repeated with four times the distance,
which takes less time than a wide search that keeps many labels."""
_CUTS = 60
"""Maximum number of cutting planes. Prices that are not optimal prune less, but prove as much."""


@dataclass(frozen=True)
class Resource:
    """A limited amount: what each arc takes of it, and how much a path may take.

    Attributes:
        weights: of every arc, one array per layer; infinite for arcs that no path may have.
        most: the limit; infinite where there is none.
        unit: weights are rounded to whole numbers of it.
    """

    weights: Sequence[Floats]
    most: float
    unit: float = SMALL

    @cached_property
    def scale(self) -> float:
        """Return the limit, or the most that a path can take where there is no limit."""
        return max(self.most if np.isfinite(self.most) else _longest(self.weights), SMALL)


@dataclass(frozen=True)
class Program:
    """A constrained shortest path problem: a graph, the costs of its arcs and limited resources.

    Attributes:
        graph: of layers; a path has one arc of each.
        cost: of every arc, one array per layer; may be negative, infinite for forbidden arcs.
        resources: at least one. Of paths of equal cost, the one that takes less of the first
            resource is better.
    """

    graph: Layered
    cost: Sequence[Floats]
    resources: Sequence[Resource]

    def solve(self, accept: Callable[[list[int]], bool]) -> list[int] | None:
        """Return the best path within the limits that `accept` accepts; None where there is none.

        Args:
            accept: recomputes what a path takes. It decides about paths that keep the limits only
                to within rounding.
        """
        prices, dual, incumbent = self._dual
        spread = _SPREAD * self._most_cost
        # Costs lie within +-_most_cost, so that a bound of twice that excludes no path any more.
        most = 2 * self._most_cost
        while dual <= most:
            # The incumbent keeps all limits, so that nothing above its cost can be the optimum.
            bound = min(incumbent, dual + spread) + LIMIT_SLACK * self._most_cost
            ends = self._labels(prices, bound)
            # lexsort takes the last key first: by cost, then by the first resource.
            for number in np.lexsort((ends.amounts[0], ends.amounts[-1])):
                if ends.amounts[-1, number] * SMALL > bound:
                    # Other labels of such a cost may have been dropped on the way, so that this
                    # one is not proven to be the next best.
                    break
                path = ends.path(int(number))
                if accept(path):
                    return path
            if dual + spread > most:
                break
            spread *= 4
        return None

    def near(self, bound: float) -> Iterator[list[int]]:
        """Yield the paths within the limits that cost at most `bound`, by the first resource.

        Paths that another one beats in every resource and in cost are left out.
        """
        ends = self._labels(self._dual[0], bound)
        for number in np.lexsort((ends.amounts[-1], ends.amounts[0])):
            if ends.amounts[-1, number] * SMALL <= bound:
                yield ends.path(int(number))

    def front(self) -> list[list[int]]:
        """Return the Pareto front of the first resource against cost, ascending in the resource.

        Every path within the limits takes and costs at least as much as one of these.
        """
        ends = self._labels(None, np.inf)
        order = undominated(ends.amounts[[0, -1]])
        return [ends.path(int(number)) for number in order]

    @cached_property
    def _most_cost(self) -> float:
        """Return a bound on the absolute value of a path's cost."""
        return _longest(self.cost)

    @cached_property
    def _shares(self) -> list[list[Floats]]:
        """Return the weights of each resource as shares of its scale, one array per layer.

        Weights above the limit, infinite ones too, count as twice the limit. No path within the
        limits has such an arc, and finite numbers keep sums and the linear program finite.
        """
        return [[np.minimum(weight / r.scale, 2.0) for weight in r.weights] for r in self.resources]

    @cached_property
    def _costs(self) -> list[Floats]:
        """Return the cost of every arc, infinite for arcs that exceed a limit by themselves."""
        costs = [cost.copy() for cost in self.cost]
        for shares in self._shares:
            for cost, share in zip(costs, shares, strict=True):
                cost[share > 1 + LIMIT_SLACK] = np.inf
        return costs

    @cached_property
    def _dual(self) -> tuple[Floats, float, float]:
        """Return the dual's prices, the lower bound that they prove, and the best cost met.

        The Lagrangian dual, with resources as shares of their limits and prices p >= 0:

            maximise  L(p) = min over paths x of  c(x) + sum_i p_i (a_i(x) / b_i - 1)

        L(p) is at most the cost of any path within the limits. It is concave and piecewise linear,
        and is solved by cutting planes (Kelley, Journal of the SIAM 8, 1960): the path that is
        cheapest at some prices is a plane that lies above L everywhere.

        The bound is infinite where every path has a forbidden arc. The best cost is infinite where
        no path met on the way keeps all limits.
        """
        count = len(self.resources)
        # A layer without arcs: no path leads to the end.
        if not all(len(tails) for tails, _ in self.graph.ends):
            return np.zeros(count), np.inf, np.inf
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
            # A cheapest path of infinite cost: every path has a forbidden arc.
            if not np.isfinite(cost):
                return prices, np.inf, np.inf
            # Only a path that keeps the limits beyond rounding is an incumbent: `solve` cuts off
            # what costs more, and `accept` could refuse a path that keeps them just about.
            if (over <= -LIMIT_SLACK).all():
                incumbent = min(incumbent, cost)
            if cost + prices @ over > bound:
                best = prices
                bound = cost + float(prices @ over)
            # The plane of this path: z <= cost + prices @ over.
            cuts.append(over)
            sides.append(cost)
            # The first planes do not bound z from above; the upper bound on prices does.
            plan = _highest(np.array(cuts), np.array(sides), 1000 * self._most_cost)
            # plan[0] is an upper bound on L: once it meets the best value found, L is maximal.
            if plan is None or plan[0] - bound < LIMIT_SLACK * self._most_cost:
                break
            prices = plan[1:]
        return best, bound, incumbent

    def _priced(self, prices: Floats) -> list[Floats]:
        """Return the cost of every arc plus what it takes at these prices, per layer."""
        return [
            cost
            + sum(price * shares[layer] for price, shares in zip(prices, self._shares, strict=True))
            for layer, cost in enumerate(self._costs)
        ]

    def _labels(self, prices: Floats | None, bound: float) -> _Labels:
        """Return the labels at the end; with prices, only those that cost no more than `bound`."""
        graph = self.graph
        # For every node, the least share of each limit that is still needed, and the least cost at
        # the dual's prices.
        least = [graph.potentials(shares) for shares in self._shares]
        rest = None if prices is None else graph.potentials(self._priced(prices))
        # The labels of each node of the current layer: (resources + 1, labels), the last row cost.
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
                # Feasibility: what is used and what must still be used fit each limit.
                keep = np.ones(found.shape[1], dtype=bool)
                for shares, potential in zip(used, least, strict=True):
                    keep &= shares + potential[node] <= 1 + LIMIT_SLACK
                # Bounding: what any completion costs at least is cost + p (used - 1) + rest, the
                # Lagrangian restricted to paths through this label.
                if rest is not None and prices is not None:
                    paid = (
                        price * (shares - 1) for price, shares in zip(prices, used, strict=True)
                    )
                    keep &= found[-1] * SMALL + rest[node] + sum(paid) <= bound
                # Dominance last, since it is the slowest of the three.
                kept = np.flatnonzero(keep)
                kept = kept[undominated(found[:, kept])]
                after[node], origins[node] = found[:, kept], (arc[kept], label[kept])
            amounts = after
            steps.append(origins)
        nothing = np.zeros((len(least) + 1, 0), dtype=np.int64)
        return _Labels(graph, amounts.get(graph.nodes - 1, nothing), steps)

    def _into(self, layer: int, amounts: Container[int]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yield every node that a layer leads to, with its arcs from reached nodes."""
        tails, heads = self.graph.ends[layer]
        reached = np.array([tail in amounts for tail in tails.tolist()])
        arcs = np.flatnonzero(reached & np.isfinite(self._costs[layer]))
        # Sorted by head, the arcs into one node stand together and are split off as one array.
        arcs = arcs[np.argsort(heads[arcs], kind="stable")]
        nodes, starts = np.unique(heads[arcs], return_index=True)
        yield from zip(nodes.tolist(), np.split(arcs, starts[1:]), strict=False)

    @cached_property
    def _whole(self) -> list[Ints]:
        """Return per layer what its arcs take and cost in whole units.

        Each array is (resources + 1, arcs); the last row is the cost in units of `SMALL`.
        """
        layers = []
        for layer, cost in enumerate(self._costs):
            rows = [np.minimum(r.weights[layer], 2 * r.scale) / r.unit for r in self.resources]
            rows.append(np.where(np.isfinite(cost), cost, 0.0) / SMALL)
            layers.append(np.round(np.array(rows)).astype(np.int64))
        return layers


_Origin = tuple[NDArray[np.int32], NDArray[np.int32]]
"""For every label of a node: its last arc, and the number of the label at that arc's tail."""


@dataclass(frozen=True)
class _Labels:
    """The labels at the end node, and the origins of all labels.

    Attributes:
        amounts: (resources + 1, labels), in whole units; the last row is the cost.
        steps: per layer, the origins of the labels of each node.
    """

    graph: Layered
    amounts: Ints
    steps: list[dict[int, _Origin]]

    def path(self, number: int) -> list[int]:
        """Return the arcs of a label, one per layer, traced from the end back to the start."""
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
    """Carry the labels at the tails of these arcs along them.

    Returns:
        The amounts (resources + 1, labels), and of each label its arc and its number at the tail.
    """
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
    """Return the columns that no other column beats or equals in all rows.

    Of equal columns the first one is kept. The result ascends in the first row.
    """
    # By the first row, then the second, and so on: only an earlier column can beat a later one.
    order = np.lexsort(amounts[::-1])
    # Two amounts: kept is what lowers the running minimum of the second.
    if len(amounts) == 2:
        costs = amounts[1, order]
        least = np.minimum.accumulate(costs)
        better = np.concatenate([[True], costs[1:] < least[:-1]])[: len(order)]
        return np.asarray(order[better], dtype=np.intp)
    if len(amounts) == 3:
        return np.asarray(
            order[_staircase(amounts[1, order].tolist(), amounts[2, order].tolist())], dtype=np.intp
        )
    # Four amounts and more: each chunk against all that is kept so far, then against itself. What
    # is dominated by a dropped column is dominated by one that is kept too.
    rest = amounts[:, order]
    kept = np.zeros(0, dtype=np.intp)
    for start in range(0, len(order), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(order)))
        chunk = chunk[~_beaten(rest, kept, chunk)]
        chunk = chunk[~_beaten(rest, chunk, chunk)]
        kept = np.concatenate([kept, chunk])
    return np.asarray(order[kept], dtype=np.intp)


def _beaten(amounts: Ints, others: NDArray[np.intp], chunk: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return (chunk,): whether an earlier one of the others is no worse in any amount."""
    beaten = others[:, None] < chunk[None, :]  # (others, chunk)
    for row in amounts:
        beaten &= row[others][:, None] <= row[chunk][None, :]
    return np.asarray(beaten.any(axis=0), dtype=np.bool_)


def _staircase(seconds: Sequence[int], thirds: Sequence[int]) -> list[int]:
    """Return the numbers of the labels that no earlier one beats or equals in both amounts.

    Labels come in ascending order of a first amount, so that only an earlier one can beat a label
    in all three. The minima so far form a staircase: ascending in the second amount, descending in
    the third (Kung, Luccio and Preparata, Journal of the ACM 22, 1975). Bisection finds a label's
    place in it, so that all labels take O(n log n) comparisons.
    """
    kept: list[int] = []
    xs: list[int] = []
    ys: list[int] = []
    for number, (x, y) in enumerate(zip(seconds, thirds, strict=True)):
        # Of the steps with a second amount of at most x, the last one has the least third amount.
        at = bisect_right(xs, x)
        if at and ys[at - 1] <= y:
            continue
        kept.append(number)
        # The steps that this label beats stand to its right and are not lower; it replaces them.
        start = bisect_left(xs, x)
        end = start
        while end < len(ys) and ys[end] >= y:
            end += 1
        xs[start:end] = [x]
        ys[start:end] = [y]
    return kept


def path_sum(weights: Sequence[Floats], path: Sequence[int]) -> float:
    """Return the sum of the weights of a path's arcs."""
    return float(sum(weight[arc] for weight, arc in zip(weights, path, strict=True)))


def _longest(weights: Sequence[Floats]) -> float:
    """Return a bound on the absolute weight of any path, ignoring infinite arcs; never 0."""
    return (
        sum(float(np.abs(weight[np.isfinite(weight)]).max(initial=0.0)) for weight in weights)
        or 1.0
    )
