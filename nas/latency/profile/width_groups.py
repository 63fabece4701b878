"""Group operations that differ in their widths alone, for interpolation and acquisition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas.blocks import Operation

MOST = {0: 1, 1: 12, 2: 10, 3: 14, 4: 16, 5: 16}
"""Maximum number of operations measured per group, by how many of its widths vary."""
LEAST = 5
"""Minimum number measured of a smaller group, of which half is measured."""
MOST_RESHAPES = 3
"""Maximum number of reshapes measured per group; they take next to no time."""


@dataclass(frozen=True)
class Group:
    """Operations that differ in their widths alone: one kind, one grid, equal hyperparameters.

    A block's expansion gives its hidden width, and so counts as a width.
    """

    operations: tuple[Operation, ...]

    def varying(self) -> int:
        """Return the number of widths that vary; 1 where they vary together."""
        tuples = set(map(widths, self.operations))
        distinct = [len(set(each)) for each in zip(*tuples, strict=True)]
        # Where one width takes as many values as there are tuples, the others follow from it. The
        # group lies on a line, however many widths change along it.
        return (
            sum(count > 1 for count in distinct)
            if len(tuples) > max(distinct)
            else int(len(tuples) > 1)
        )

    def chosen(self) -> tuple[Operation, ...]:
        """Return the operations to measure, evenly over the widths and with the extreme ones."""
        most = MOST_RESHAPES if self.operations[0].macs == 0 else MOST[self.varying()]
        return spread(self.operations, min(most, max(LEAST, (len(self.operations) + 1) // 2)))


def groups(operations: Iterable[Operation]) -> list[Group]:
    """Return the operations in groups, in the order of their first."""
    by_key: dict[tuple[object, ...], list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(_group_key(operation), []).append(operation)
    return [Group(tuple(members)) for members in by_key.values()]


def widths(operation: Operation) -> tuple[float, ...]:
    """Return channels in, of each level of a pyramid, and out; then the expansion, if there is one.

    The hidden width follows from the first and the last. The expansion stands for it, because it
    varies by itself: where all blocks of a group have the same one, it adds no width to measure.
    """
    channels = (*(level.channels for level in operation.input.levels), operation.output.channels)
    expansion = operation.spec.hyperparameters().get("expansion")
    return channels if expansion is None else (*channels, expansion)


def spread(operations: Sequence[Operation], count: int) -> tuple[Operation, ...]:
    """Return `count` operations far from each other in the logarithms of their widths.

    Farthest-point sampling: the narrowest operation comes first, then in each step the one whose
    distance to the nearest chosen one is largest. So the widest is the second.
    """
    points = [tuple(math.log(width) for width in widths(operation)) for operation in operations]
    chosen = [min(range(len(points)), key=lambda i: (sum(points[i]), i))]
    # The distance of each point to the nearest chosen one; a chosen point has 0.
    nearest = [math.dist(point, points[chosen[0]]) for point in points]
    while len(chosen) < min(count, len(points)):
        # The earlier one wins a tie, so that every run measures the same operations.
        chosen.append(max(range(len(points)), key=lambda i: (nearest[i], -i)))
        nearest = [
            min(old, math.dist(point, points[chosen[-1]]))
            for old, point in zip(nearest, points, strict=True)
        ]
    return tuple(operations[i] for i in chosen)


def _group_key(operation: Operation) -> tuple[object, ...]:
    """Return what the operations of a group have in common."""
    spec = operation.spec
    shape = operation.input
    # A block's hyperparameter `width` is its output channels, which vary within a group. A head on
    # a pyramid is the exception: its `width` is that of its inner maps, so it separates groups. Its
    # parts (`FPNHead.parts`) have no such width. Neither does its expansion vary in one space.
    varied = () if shape.layout == "pyramid" else ("width", "expansion")
    others = tuple(
        (name, value) for name, value in spec.hyperparameters().items() if name not in varied
    )
    return spec.kind, others, shape.layout, shape.height, shape.width
