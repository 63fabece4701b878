"""A space's graph with the positions of each stage condensed into one layer; `exact` calls it.

It is for scores that price whole stages, such as the accuracy law. There the cost of a stage is a
function of sums over its blocks: how many there are, and how many of them attend. So no single arc
of `nas.search.graph` has a cost of its own.

The rest of a network sees only two things of a stage's positions: their sums and the node where
they end. So the ways through the positions are listed once per stage, the best of each kind are
kept, and each of these becomes one arc. `nas.search.engines.label_setting` solves the condensed
graph like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nas.search.engines.label_setting import LIMIT_SLACK, Resource, undominated
from nas.search.graph import Arc, Ends, Floats, Graph, Layered, numbered
from nas.search.limits import SMALL

Ints = NDArray[np.int64]
Fits = Callable[[NDArray[np.intp], NDArray[np.intp], Ints], NDArray[np.bool_]]
Counts = Callable[[Arc], tuple[int, ...]]
StageCosts = Callable[[int, Ints, Ints], Floats]
_LARGEST_KEY = 2**62
"""Bound below which several columns are packed into one 64-bit integer key."""
_ROLES = ("identity", "local", "global")
_IDENTITY, _LOCAL, _GLOBAL = range(3)
"""Roles of blocks, and their numbers."""


class Condensed(Layered):
    """The graph of stems, entries, whole stages and heads.

    Its nodes are those of the space's graph, with the same numbers. Nodes between the positions of
    a stage have no arcs.

    Attributes:
        cost: of every arc, one array per layer; a stage's arcs include the cost of the whole stage.
        resources: what every arc takes of them.

    Args:
        graph: of the space.
        cost: of every arc of `graph`, without the costs of whole stages.
        resources: what those arcs take; infinite for arcs that no member may have.
        counts: what a block adds to the sums that its stage's cost depends on.
        stage_costs: costs of stages (counted from 0) of these widths with these sums
            (`Scores.stage_costs`).
        ordered: keep only ways whose dropped positions stand together behind the local blocks, as
            `Space.place` puts them. It is right where neither cost nor resources depend on which
            positions are dropped (`nas.search.engines.prices.positional`): then every other member
            equals one of these.
    """

    def __init__(
        self,
        graph: Graph,
        cost: Sequence[Floats],
        resources: Sequence[Resource],
        counts: Counts,
        stage_costs: StageCosts,
        ordered: bool = False,
    ) -> None:
        self.nodes = graph.nodes
        self.cost: list[Floats] = []
        self.resources: list[Resource] = []
        self._ends: list[Ends] = []
        self._graph = graph
        self._weights: list[list[Floats]] = [[] for _ in resources]
        self._cost = cost
        self._given = resources
        self._stages: list[_Ways | None] = []
        self._ordered = ordered
        # What a way through a stage may take: the limit, less the least that must be taken before
        # and behind the stage. Most ways through a large stage are too slow for a phone's limit,
        # and need no price.
        self._outside = [
            (_least_before(graph, resource.weights), graph.potentials(resource.weights))
            for resource in resources
        ]
        # Layers of stems, entries and heads are copied. The run of layers that are the positions of
        # one stage becomes a single layer.
        layer = 0
        while layer < len(graph.layers):
            place = graph.layers[layer][0].place
            if place.position is None:
                self._copy(layer)
                layer += 1
                continue
            positions = graph.space.stages[place.stage or 0].depths[1]
            self._condense(range(layer, layer + positions), counts, stage_costs)
            layer += positions
        self.resources = [
            replace(resource, weights=weights)
            for resource, weights in zip(resources, self._weights, strict=True)
        ]

    @property
    def ends(self) -> list[Ends]:
        """Return the tails and the heads of the arcs of each layer."""
        return self._ends

    def expanded(self, path: Sequence[int]) -> list[int]:
        """Return the path of the space's graph that a path of this graph stands for."""
        arcs: list[int] = []
        for ways, arc in zip(self._stages, path, strict=True):
            arcs += [arc] if ways is None else ways.arcs(arc)
        return arcs

    def _copy(self, layer: int) -> None:
        """Copy a layer of the graph that is not a position."""
        self._ends.append(self._graph.ends[layer])
        self.cost.append(self._cost[layer])
        for weights, resource in zip(self._weights, self._given, strict=True):
            weights.append(resource.weights[layer])
        self._stages.append(None)

    def _condense(self, layers: range, counts: Counts, stage_costs: StageCosts) -> None:
        """Turn the best ways through the positions of one stage into the arcs of one layer."""
        # As in label setting, amounts and costs are whole numbers, so that ties are exact.
        units = [*(resource.unit for resource in self._given), SMALL]
        ways = _Ways(self._graph, np.unique(self._graph.ends[layers[0]][0]), len(units))
        # What each block of the stage counts (counts, blocks), and its role (blocks,).
        arcs, numbers = numbered([self._graph.layers[each] for each in layers], _block_identity)
        counted = np.array([counts(arc) for arc in arcs], dtype=np.int64).T
        stage = self._graph.space.stages[arcs[0].place.stage or 0]
        roles = np.array([_ROLES.index(stage.kind(arc.block)) for arc in arcs], dtype=np.int64)
        # A frozen stage has its blocks wherever they are.
        ordered = self._ordered and stage.fixed is None
        for layer, blocks in zip(layers, numbers, strict=True):
            # (resources + 1, arcs): an arc with an infinite entry belongs to no member.
            rows = [*(resource.weights[layer] for resource in self._given), self._cost[layer]]
            allowed = np.all(np.isfinite(rows), axis=0)
            whole = [
                np.where(allowed, row, 0.0) / unit for row, unit in zip(rows, units, strict=True)
            ]
            ways.extend(
                layer,
                np.round(whole).astype(np.int64),
                counted[:, blocks],
                allowed,
                self._fits,
                roles[blocks] if ordered else None,
            )
        first = self._graph.layers[layers[0]]
        ways.finish(stage_costs, first[0].place.stage or 0, {arc.tail: arc.width for arc in first})
        self._ends.append((ways.starts, ways.nodes))
        *taken, cost = (row * unit for row, unit in zip(ways.amounts, units, strict=True))
        self.cost.append(cost)
        for weights, row in zip(self._weights, taken, strict=True):
            weights.append(row)
        self._stages.append(ways)

    def _fits(
        self, starts: NDArray[np.intp], nodes: NDArray[np.intp], amounts: Ints
    ) -> NDArray[np.bool_]:
        """Return whether each way can be part of a member within the limits, (labels,)."""
        fits = np.ones(len(nodes), dtype=bool)
        for row, resource in enumerate(self._given):
            if np.isfinite(resource.most):
                before, behind = self._outside[row]
                taken = before[starts] + amounts[row] * resource.unit + behind[nodes]
                fits &= taken <= resource.most + LIMIT_SLACK * resource.scale
        return fits


def _block_identity(arc: Arc) -> int:
    return id(arc.block)


def _least_before(graph: Graph, weights: Sequence[Floats]) -> Floats:
    """Return for every node (nodes,) the least weight of a path from the first node to it."""
    least = np.full(graph.nodes, np.inf)
    least[0] = 0.0
    for (tails, heads), weight in zip(graph.ends, weights, strict=True):
        np.minimum.at(least, heads, least[tails] + weight)
    return least


@dataclass
class _Step:
    """The origins of a position's labels: the last arc of each, and its label one position before."""

    arcs: NDArray[np.intp]
    labels: NDArray[np.intp]


class _Ways:
    """The ways through the positions of a stage, found by label setting from all first nodes at once.

    A label is a way so far. It is dropped where another label with the same start, node and counts
    takes and costs no more. Equal counts mean an equal cost of the stage, so that the other one is
    as good whatever follows.

    Attributes:
        starts, nodes: (labels,), the node where each label began and the node where it is.
        counts: (counts, labels), the sums so far.
        last: (labels,), role of the last position: local where it is the first one.
        amounts: (resources + 1, labels) in whole units, the last row is the cost.
    """

    def __init__(self, graph: Graph, starts: NDArray[np.intp], rows: int) -> None:
        self._graph = graph
        self.starts = starts
        self.nodes = starts
        self.counts: Ints | None = None
        self.last: Ints = np.full(len(starts), _LOCAL, dtype=np.int64)
        self.amounts: Ints = np.zeros((rows, len(starts)), dtype=np.int64)
        self._steps: list[_Step] = []

    def extend(
        self,
        layer: int,
        taken: Ints,
        counted: Ints,
        allowed: NDArray[np.bool_],
        fits: Fits,
        roles: Ints | None = None,
    ) -> None:
        """Carry every label along every allowed arc of the next position, and drop beaten labels.

        Args:
            layer: of the graph, the next position.
            taken: (resources + 1, arcs) in whole units, the last row is the cost.
            counted: (counts, arcs), what each arc adds to the counts.
            allowed: (arcs,), whether some member may have the arc.
            fits: returns whether ways with these starts, nodes and amounts keep the limits.
            roles: (arcs,), of the blocks, where ways are ordered: local blocks, dropped positions,
                global blocks; None where they may have any order.
        """
        tails, heads = self._graph.ends[layer]
        arcs = np.flatnonzero(allowed)
        arcs = arcs[np.argsort(tails[arcs], kind="stable")]
        # Sorted by tail, the arcs out of one node are a slice: label i takes numbers[i] arcs from
        # first[i] on.
        first = np.searchsorted(tails[arcs], self.nodes, side="left")
        numbers = np.searchsorted(tails[arcs], self.nodes, side="right") - first
        # One entry per pair of a label and an arc out of its node; `within` counts from 0 in each
        # label's slice.
        labels = np.repeat(np.arange(len(self.nodes)), numbers)
        within = np.arange(len(labels)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        arcs = arcs[np.repeat(first, numbers) + within]
        if roles is not None:
            role = roles[arcs]
            last = self.last[labels]
            # The order holds where no local block follows another role, and no dropped position a
            # global block. Each member has one such way instead of one for every choice of
            # dropped positions.
            in_order = np.where(
                role == _LOCAL, last == _LOCAL, (role == _GLOBAL) | (last != _GLOBAL)
            )
            labels = labels[in_order]
            arcs = arcs[in_order]
        # What takes too much is left out first: to compare labels takes longer.
        starts = self.starts[labels]
        nodes = heads[arcs]
        amounts = self.amounts[:, labels] + taken[:, arcs]
        within_limits = fits(starts, nodes, amounts)
        if not within_limits.all():
            labels = labels[within_limits]
            arcs = arcs[within_limits]
            starts = starts[within_limits]
            nodes = nodes[within_limits]
            amounts = amounts[:, within_limits]
        before = (
            np.zeros((len(counted), len(self.nodes)), dtype=np.int64)
            if self.counts is None
            else self.counts
        )
        counts = before[:, labels] + counted[:, arcs]
        last = roles[arcs] if roles is not None else np.zeros(len(arcs), dtype=np.int64)
        kept = best_of_groups(_keys([starts, nodes, last, *counts]), amounts)
        self.starts = starts[kept]
        self.nodes = nodes[kept]
        self.counts = counts[:, kept]
        self.last = last[kept]
        self.amounts = amounts[:, kept]
        self._steps.append(_Step(arcs[kept], labels[kept]))

    def finish(self, stage_costs: StageCosts, stage: int, width_of: Mapping[int, int]) -> None:
        """Add the cost of the whole stage, and keep the undominated ways between each two nodes.

        Args:
            stage_costs: of stages, widths and the final counts.
            stage: counted from 0.
            width_of: the width of the stage by the node where a way begins.
        """
        assert self.counts is not None
        widths = np.array([width_of[start] for start in self.starts.tolist()], dtype=np.int64)
        costs = stage_costs(stage, widths, self.counts)
        self.amounts[-1] += np.round(costs / SMALL).astype(np.int64)
        # With the cost of the stage added, counts no longer matter: ways of different counts compete.
        kept = best_of_groups(_keys([self.starts, self.nodes]), self.amounts)
        self.starts = self.starts[kept]
        self.nodes = self.nodes[kept]
        self.counts = self.counts[:, kept]
        self.amounts = self.amounts[:, kept]
        self._steps[-1] = _Step(self._steps[-1].arcs[kept], self._steps[-1].labels[kept])

    def arcs(self, label: int) -> list[int]:
        """Return the graph's arcs of a label at the end, one per position."""
        path: list[int] = []
        for step in reversed(self._steps):
            path.append(int(step.arcs[label]))
            label = int(step.labels[label])
        return path[::-1]


def best_of_groups(keys: Ints, amounts: Ints) -> NDArray[np.intp]:
    """Return the columns that no other column of the same key beats or equals in all rows.

    Args:
        keys: (labels,), the group of each column.
        amounts: (rows, labels).
    """
    if not len(keys):
        return np.zeros(0, dtype=np.intp)
    # A row in which all columns are equal beats nothing; without it the fast cases below apply
    # more often.
    varying = amounts[[bool((row != row[0]).any()) for row in amounts]]
    # By group, then by the first varying row, then by the others among equal ones. lexsort takes
    # its last key first.
    order = np.lexsort((*varying[::-1], keys))
    sorted_keys = keys[order]
    begins = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])
    # One amount: the first column of each group is its minimum.
    if len(varying) <= 1:
        return np.asarray(order[begins], dtype=np.intp)
    if len(varying) == 2:
        # Two amounts: kept is what lowers the running minimum of the second within its group. One
        # pass over all groups does it: the ranks of each later group are shifted below all ranks
        # before it, so that the minimum starts anew there.
        ranks = np.unique(varying[1, order], return_inverse=True)[1].ravel()
        group = np.cumsum(begins) - 1
        lowered = ranks - group * (len(ranks) + 1)
        least = np.minimum.accumulate(lowered)
        better = begins.copy()
        better[1:] |= lowered[1:] < least[:-1]
        return np.asarray(order[better], dtype=np.intp)
    bounds = [*np.flatnonzero(begins).tolist(), len(order)]
    kept = [
        (
            order[begin:end]
            if end - begin == 1
            else order[begin:end][undominated(varying[:, order[begin:end]])]
        )
        for begin, end in pairwise(bounds)
    ]
    return np.concatenate(kept)


def _keys(columns: Sequence[NDArray[np.int64] | NDArray[np.intp]]) -> Ints:
    """Return one integer per label, equal for labels that are equal in all columns."""
    keys = np.zeros(len(columns[0]), dtype=np.int64)
    size = 1
    for column in columns:
        if not len(column):
            return keys
        least = int(column.min())
        span = int(column.max()) - least + 1
        # Keys that would overflow are replaced by their ranks, which are as good and smaller; then,
        # if needed, the column's values too.
        if size * span >= _LARGEST_KEY:
            keys = np.unique(keys, return_inverse=True)[1].ravel().astype(np.int64)
            size = int(keys.max()) + 1
        if size * span >= _LARGEST_KEY:
            column = np.unique(column, return_inverse=True)[1].ravel()
            least = 0
            span = int(column.max()) + 1
        # Mixed radix: a digit of base `span` per column.
        keys = keys * span + (column - least)
        size *= span
    return keys
