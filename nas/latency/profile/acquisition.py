"""Choose the operation to measure next; `run` hands a `Chooser` to the bench.

A few operations of every group come first. Those whose interpolation error contributes most to the
predicted latency of a random member follow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nas.blocks import Operation
from nas.latency.profile.interpolate import reducible_error
from nas.latency.profile.width_groups import MOST_RESHAPES, Group, groups, spread
from nas.latency.rows import Key
from nas.space import Space

FIRST = {0: 1, 1: 2, 2: 3, 3: 3, 4: 4, 5: 4}
"""Number of operations of a group that are always measured, by how many of its widths vary."""
GOAL = 0.01
"""Relative standard error of a network's latency below which measuring ends (1 %)."""
_MEMBERS = 64
"""Number of random members that show how often a network has each group's operations."""


@dataclass
class _State:
    """A group and the state of its measurement.

    An operation is in `ms`, in `pending` or in `left`, unless it failed.

    Attributes:
        often: mean number of its operations in a random member.
        order: the operations that may be measured, each as far from those before it as possible.
        first: number of operations at the start of `order` that are always measured.
        ms: latencies of the measured operations.
        pending: operations that are being measured.
        left: operations that were not named yet.
        _doubts: cache of `doubts`, standard errors in ms; None after a change.
    """

    group: Group
    often: float
    order: list[Operation]
    first: int
    ms: dict[Operation, float] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)
    left: list[Operation] = field(default_factory=list)
    _doubts: list[float] | None = None

    def doubts(self) -> list[float]:
        """Return the reducible standard error of each operation in `left`, in ms."""
        # They are cached: each takes leave-one-out fits for all tiles. One call of `Chooser.next`
        # asks for all groups, and only the last one measured has changed.
        if self._doubts is None:
            measured = list(self.ms)
            ms = list(self.ms.values())
            self._doubts = (
                reducible_error(measured, ms, self.pending, self.left).tolist() if self.left else []
            )
        return self._doubts

    def doubt(self) -> float:
        """Return the standard error that this group adds to a random member's latency, in ms."""
        # Nothing is interpolated from fewer than two rows, and no error can be estimated.
        if len(self.ms) < 2:
            return 0.0
        # The root mean square over the group (0 for measured operations), times the number that a
        # member has: errors of one group share its fit, so they add up linearly.
        squares = sum(each**2 for each in self.doubts())
        return self.often * math.sqrt(squares / len(self.group.operations))

    def following(self) -> Operation | None:
        """Return the next operation of `order`; None when its limit is reached or none is left."""
        if len(self.ms) < 2 or len(self.ms) + len(self.pending) >= len(self.order):
            return None
        return next((operation for operation in self.order if operation in self.left), None)

    def changed(self) -> None:
        """Drop the cached errors; call it after each change of `ms`, `pending` or `left`."""
        self._doubts = None


class Chooser:
    """Source of the operations to measure, until the table is good enough (`bench.Source`).

    Args:
        space: what the table is for; its random members weigh the operations.
        operations: all operations of the space.
        known: latencies in ms of the operations that are measured already.
        failed: operations that the device cannot run.
    """

    def __init__(
        self,
        space: Space,
        operations: Iterable[Operation],
        known: Mapping[Key, float],
        failed: Iterable[Key] = (),
    ) -> None:
        often = _occurrences(space)
        self._states: list[_State] = []
        self._of: dict[Key, _State] = {}
        bad = set(failed)
        for group in groups(operations):
            whole = [operation for operation in group.operations if operation.key not in bad]
            if not whole:
                continue
            most = MOST_RESHAPES if whole[0].macs == 0 else len(group.chosen())
            weight = sum(often[operation.key] for operation in whole)
            # Greedy farthest points: any prefix of the order covers the group's widths evenly.
            order = list(spread(whole, most))
            state = _State(group, weight, order, min(FIRST[group.varying()], len(order)))
            self._states.append(state)
            for operation in whole:
                self._of[operation.key] = state
                if operation.key in known:
                    state.ms[operation] = known[operation.key]
                else:
                    state.left.append(operation)
        self._states.sort(key=lambda state: -state.often)
        self._first = self._rounds()

    def next(self) -> Operation | None:
        """Return the operation to measure next.

        None means that the table is good enough, that every group has reached its maximum, or that
        only operations which are being measured could help.
        """
        # Phase 1: the first operations of every group. Those that other calls named are skipped.
        while self._first:
            operation = self._first.pop(0)
            state = self._of[operation.key]
            if operation in state.left:
                return self._take(state, operation)
        # Phase 2: the group with the largest contribution to the error that has an operation left.
        if self.doubt() <= GOAL:
            return None
        for state in sorted(self._states, key=_State.doubt, reverse=True):
            following = state.following()
            if following is not None:
                return self._take(state, following)
        return None

    def found(self, operation: Operation, ms: float | None) -> None:
        """Record the latency of an operation that `next` named; None where it failed."""
        state = self._of[operation.key]
        if operation in state.pending:
            state.pending.remove(operation)
        if ms is not None:
            state.ms[operation] = ms
        # The next operation of its group replaces a failed one at once: phase 2 does not name any
        # of a group that has fewer than two rows.
        elif instead := next(
            (other for other in state.order[state.first :] if other in state.left), None
        ):
            self._first.insert(0, instead)
        state.changed()

    def back(self, operation: Operation) -> None:
        """Take back an operation that `next` named and that was not measured."""
        state = self._of[operation.key]
        state.pending.remove(operation)
        state.left.append(operation)
        state.changed()
        if operation in state.order[: state.first]:
            self._first.insert(0, operation)

    def doubt(self) -> float:
        """Return the relative standard error that interpolation adds to a random member's latency.

        Infinite before the first measurement.
        """
        # The expected latency of a random member. Each group counts with the mean of its measured
        # operations.
        total = sum(s.often * sum(s.ms.values()) / len(s.ms) for s in self._states if s.ms)
        # Groups are fitted independently, so their errors add up in quadrature.
        return (
            math.sqrt(sum(state.doubt() ** 2 for state in self._states)) / total
            if total
            else math.inf
        )

    def most(self) -> int:
        """Return the maximum number of operations that can still be named."""
        return sum(
            max(min(len(state.order) - len(state.ms), len(state.left)), 0) for state in self._states
        )

    def _rounds(self) -> list[Operation]:
        """Return the first operation of each group, then the second of each, and so on.

        In each round the groups that networks have most of lead, so that a budget of time that
        ends early was spent on them.
        """
        longest = max((state.first for state in self._states), default=0)
        return [
            state.order[turn]
            for turn in range(longest)
            for state in self._states
            if turn < state.first
        ]

    def _take(self, state: _State, operation: Operation) -> Operation:
        state.left.remove(operation)
        state.pending.append(operation)
        state.changed()
        return operation


def _occurrences(space: Space) -> Counter[Key]:
    """Return the mean number of times that a random member has each operation."""
    counts: Counter[Key] = Counter()
    for seed in range(_MEMBERS):
        for operation in space.sample(seed).operations():
            for part in operation.parts:
                counts[part.key] += 1
    return Counter({key: count / _MEMBERS for key, count in counts.items()})
