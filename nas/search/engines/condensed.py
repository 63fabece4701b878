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

from nas.search.engines.label_setting import Resource, undominated
from nas.search.graph import Arc, Ends, Floats, Graph, Layered
from nas.search.limits import SMALL

Ints = NDArray[np.int64]
Counts = Callable[[Arc], tuple[int, ...]]
StageCost = Callable[[int, int, tuple[int, ...]], float]
_LARGEST_KEY = 2**62
"""Bound below which several columns are packed into one 64-bit integer key."""


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
        stage_cost: cost of a stage (counted from 0) of a width with these sums.
    """

    def __init__(
        self,
        graph: Graph,
        cost: Sequence[Floats],
        resources: Sequence[Resource],
        counts: Counts,
        stage_cost: StageCost,
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
            self._condense(range(layer, layer + positions), counts, stage_cost)
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

    def _condense(self, layers: range, counts: Counts, stage_cost: StageCost) -> None:
        """Turn the best ways through the positions of one stage into the arcs of one layer."""
        # As in label setting, amounts and costs are whole numbers, so that ties are exact.
        units = [*(resource.unit for resource in self._given), SMALL]
        ways = _Ways(self._graph, np.unique(self._graph.ends[layers[0]][0]), len(units))
        for layer in layers:
            # (resources + 1, arcs): an arc with an infinite entry belongs to no member.
            rows = [*(resource.weights[layer] for resource in self._given), self._cost[layer]]
            allowed = np.all(np.isfinite(rows), axis=0)
            whole = [
                np.where(allowed, row, 0.0) / unit for row, unit in zip(rows, units, strict=True)
            ]
            summed = np.array([counts(arc) for arc in self._graph.layers[layer]], dtype=np.int64)
            ways.extend(layer, np.round(whole).astype(np.int64), summed.T, allowed)
        first = self._graph.layers[layers[0]]
        ways.finish(stage_cost, first[0].place.stage or 0, {arc.tail: arc.width for arc in first})
        self._ends.append((ways.starts, ways.nodes))
        *taken, cost = (row * unit for row, unit in zip(ways.amounts, units, strict=True))
        self.cost.append(cost)
        for weights, row in zip(self._weights, taken, strict=True):
            weights.append(row)
        self._stages.append(ways)


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
        amounts: (resources + 1, labels) in whole units, the last row is the cost.
    """

    def __init__(self, graph: Graph, starts: NDArray[np.intp], rows: int) -> None:
        self._graph = graph
        self.starts = starts
        self.nodes = starts
        self.counts: Ints | None = None
        self.amounts: Ints = np.zeros((rows, len(starts)), dtype=np.int64)
        self._steps: list[_Step] = []

    def extend(self, layer: int, taken: Ints, counted: Ints, allowed: NDArray[np.bool_]) -> None:
        """Carry every label along every allowed arc of the next position, and drop beaten labels.

        Args:
            layer: of the graph, the next position.
            taken: (resources + 1, arcs) in whole units, the last row is the cost.
            counted: (counts, arcs), what each arc adds to the counts.
            allowed: (arcs,), whether some member may have the arc.
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
        before = (
            np.zeros((len(counted), len(self.nodes)), dtype=np.int64)
            if self.counts is None
            else self.counts
        )
        starts = self.starts[labels]
        nodes = heads[arcs]
        counts = before[:, labels] + counted[:, arcs]
        amounts = self.amounts[:, labels] + taken[:, arcs]
        kept = best_of_groups(_keys([starts, nodes, *counts]), amounts)
        self.starts = starts[kept]
        self.nodes = nodes[kept]
        self.counts = counts[:, kept]
        self.amounts = amounts[:, kept]
        self._steps.append(_Step(arcs[kept], labels[kept]))

    def finish(self, stage_cost: StageCost, stage: int, width_of: Mapping[int, int]) -> None:
        """Add the cost of the whole stage, and keep the undominated ways between each two nodes.

        Args:
            stage_cost: of a stage, a width and the final counts.
            stage: counted from 0.
            width_of: the width of the stage by the node where a way begins.
        """
        assert self.counts is not None
        # Many ways share a width and counts, so each distinct column is priced once.
        widths = np.array([width_of[start] for start in self.starts.tolist()], dtype=np.int64)
        table, inverse = np.unique(np.vstack([widths, self.counts]), axis=1, return_inverse=True)
        costs = [stage_cost(stage, column[0], tuple(column[1:])) for column in table.T.tolist()]
        self.amounts[-1] += np.round(np.array(costs) / SMALL).astype(np.int64)[inverse.ravel()]
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
