"""Groups of members that are evaluated by one walk, cut so that processes take equally long.

`nas.supernet.sensitivity` asks for the next group of each process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.accuracy.single_moves import Variant
from nas.space import Architecture
from nas.supernet.walk import first_difference


@dataclass(frozen=True)
class Work:
    """A variant, and the work that it takes as a share of a forward pass of the base.

    Attributes:
        variant: the variant.
        start: index of the first operation that the base does not have.
        shared: share of the base's operations before it.
        own: work of its own operations from there on.
    """

    variant: Variant
    start: int
    shared: float
    own: float

    @classmethod
    def of(cls, variant: Variant, base: Architecture) -> Work:
        start = first_difference(base, variant.arch)
        before = [operation.macs for operation in base.operations()]
        own = [operation.macs for operation in variant.arch.operations()[start:]]
        # Multiply-accumulates stand for time: how long an operation takes is not known beforehand.
        total = max(sum(before), 1)
        return cls(variant, start, sum(before[:start]) / total, sum(own) / total)


def passes(group: Sequence[Work]) -> float:
    """Return the work of a group: the base up to where the last member branches off, and theirs."""
    return max((each.shared for each in group), default=0.0) + sum(each.own for each in group)


def next_groups(rest: Sequence[Work], limit: float, processes: int) -> list[list[Work]]:
    """Return the next group of each process, cut from the front of `rest`.

    Groups take at most about `limit` passes. All that are left take about equally long, so that
    no process waits.
    """
    # Each round gives one group to every process, so their number is a multiple of the processes.
    rounds = max(math.ceil(sum(each.own for each in rest) / (limit * processes)), 1)
    wanted = min(rounds * processes, len(rest))
    # The smallest bound by which `rest` is cut into so many groups, by bisection.
    # `_cut` fills groups from the front, which takes the fewest groups that a bound allows. A
    # larger bound never takes more, so bisection finds the bound.
    low = 0.0
    high = passes(rest)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_cut(rest, middle)) <= wanted else (middle, high)
    return _cut(rest, high)[:processes]


def _cut(rest: Sequence[Work], bound: float) -> list[list[Work]]:
    """Return consecutive groups of at most `bound` passes, or of one variant."""
    groups: list[list[Work]] = []
    for each in rest:
        if groups and passes([*groups[-1], each]) <= bound:
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups
