"""Which operation is worth measuring next: a few of every group first, then where the table's doubt
weighs most."""

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
"""How many operations of a group are measured in any case, by how many of its widths vary."""
GOAL = 0.01
"""Doubt about a network, relative to its latency, below which no more is measured."""
_MEMBERS = 64
"""Random members that tell how often a network has each group's operations."""


@dataclass
class _State:
    """A group with what is known of it.

    Attributes:
        often: how many of its operations a random member has.
        order: what is measured at most, each as far from those before it as can be.
        first: how many of them are measured in any case.
        ms: of the operations measured.
        pending: operations that are being measured.
        left: operations that nobody asked for yet.
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
        """Return milliseconds of doubt about each operation that is left."""
        if self._doubts is None:
            measured = list(self.ms)
            ms = list(self.ms.values())
            self._doubts = (
                reducible_error(measured, ms, self.pending, self.left).tolist() if self.left else []
            )
        return self._doubts

    def doubt(self) -> float:
        """Return milliseconds of doubt that this group puts into a random member."""
        if len(self.ms) < 2:
            return 0.0
        squares = sum(each**2 for each in self.doubts())
        return self.often * math.sqrt(squares / len(self.group.operations))

    def following(self) -> Operation | None:
        """Return the next one in order, if there may be another one."""
        if len(self.ms) < 2 or len(self.ms) + len(self.pending) >= len(self.order):
            return None
        return next((operation for operation in self.order if operation in self.left), None)

    def changed(self) -> None:
        self._doubts = None


class Chooser:
    """Names operations of a space until its table is good enough.

    Args:
        known: milliseconds of what is measured already.
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
        """Return the operation to measure next, or None when the table is good enough or only
        running ones could help."""
        while self._first:
            operation = self._first.pop(0)
            state = self._of[operation.key]
            if operation in state.left:
                return self._take(state, operation)
        if self.doubt() <= GOAL:
            return None
        for state in sorted(self._states, key=_State.doubt, reverse=True):
            following = state.following()
            if following is not None:
                return self._take(state, following)
        return None

    def found(self, operation: Operation, ms: float | None) -> None:
        """What came of an operation that `next` named; None where it failed."""
        state = self._of[operation.key]
        if operation in state.pending:
            state.pending.remove(operation)
        if ms is not None:
            state.ms[operation] = ms
        elif instead := next(
            (other for other in state.order[state.first :] if other in state.left), None
        ):
            self._first.insert(0, instead)
        state.changed()

    def back(self, operation: Operation) -> None:
        """An operation that `next` named is not measured after all, or by another device."""
        state = self._of[operation.key]
        state.pending.remove(operation)
        state.left.append(operation)
        state.changed()
        if operation in state.order[: state.first]:
            self._first.insert(0, operation)

    def doubt(self) -> float:
        """Return the standard error that interpolation puts into the latency of a random member,
        relative to it."""
        total = sum(s.often * sum(s.ms.values()) / len(s.ms) for s in self._states if s.ms)
        return (
            math.sqrt(sum(state.doubt() ** 2 for state in self._states)) / total
            if total
            else math.inf
        )

    def most(self) -> int:
        """Return how many operations can still be named."""
        return sum(
            max(min(len(state.order) - len(state.ms), len(state.left)), 0) for state in self._states
        )

    def _rounds(self) -> list[Operation]:
        """Return the first of each group, the second of each, and so on; those that networks have
        most of lead."""
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
    """Return how often a random member has each operation, on average."""
    found: Counter[Key] = Counter()
    for seed in range(_MEMBERS):
        for operation in space.sample(seed).operations():
            found[operation.key] += 1
    return Counter({key: count / _MEMBERS for key, count in found.items()})
