"""Which operations of a width grid are measured, and which are interpolated between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas.blocks import Operation

MOST = {0: 1, 1: 12, 2: 10, 3: 14, 4: 16, 5: 16}
"""How many operations of a group are measured at most, by how many of its widths vary."""
LEAST = 5
"""Half of a smaller group is measured, but no fewer than this."""
MOST_RESHAPES = 3
"""Reshapes are measured at fewer widths: they cost next to nothing."""


@dataclass(frozen=True)
class Group:
    """Operations that differ in their widths alone: one kind, the same other hyperparameters, the
    same grid."""

    operations: tuple[Operation, ...]

    def varying(self) -> int:
        """Return how many of the widths in and out vary; 1 where they vary together."""
        known = set(map(widths, self.operations))
        distinct = [len(set(each)) for each in zip(*known, strict=True)]
        return (
            sum(count > 1 for count in distinct)
            if len(known) > max(distinct)
            else int(len(known) > 1)
        )

    def chosen(self) -> tuple[Operation, ...]:
        """Return the operations to measure, spread evenly over the widths, the extreme ones
        included."""
        most = MOST_RESHAPES if self.operations[0].macs == 0 else MOST[self.varying()]
        return spread(self.operations, min(most, max(LEAST, (len(self.operations) + 1) // 2)))


def groups(operations: Iterable[Operation]) -> list[Group]:
    """Return the operations in groups, in the order of their first."""
    found: dict[tuple[object, ...], list[Operation]] = {}
    for operation in operations:
        found.setdefault(_group_key(operation), []).append(operation)
    return [Group(tuple(members)) for members in found.values()]


def widths(operation: Operation) -> tuple[int, ...]:
    """Return channels in, of each level of a pyramid, and out."""
    return *(level.channels for level in operation.input.levels), operation.output.channels


def spread(operations: Sequence[Operation], count: int) -> tuple[Operation, ...]:
    """Return `count` operations as far from each other as can be in the logarithm of their widths,
    the narrowest first."""
    points = [tuple(math.log(width) for width in widths(operation)) for operation in operations]
    chosen = [min(range(len(points)), key=lambda i: (sum(points[i]), i))]
    nearest = [math.dist(point, points[chosen[0]]) for point in points]
    while len(chosen) < min(count, len(points)):
        chosen.append(max(range(len(points)), key=lambda i: (nearest[i], -i)))
        nearest = [
            min(old, math.dist(point, points[chosen[-1]]))
            for old, point in zip(nearest, points, strict=True)
        ]
    return tuple(operations[i] for i in chosen)


def _group_key(operation: Operation) -> tuple[object, ...]:
    spec = operation.spec
    shape = operation.input
    # A block's width is that of its stage, but for a head on a pyramid, which has one inside.
    varied = () if shape.layout == "pyramid" else ("width",)
    others = tuple(
        (name, value) for name, value in spec.hyperparameters().items() if name not in varied
    )
    return spec.kind, others, shape.layout, shape.height, shape.width
