"""Every operation that some member of a space can need: what a table must have rows for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

from nas.space import Architecture, Operation, Space


def space_operations(space: Space) -> list[Operation]:
    """The distinct operations (by key) of all members of `space`, each named after a place where it stands."""
    found = {operation.key: operation for arch in _members(space) for operation in arch.operations()}
    return list(found.values())


def _members(space: Space) -> Iterator[Architecture]:
    """A few members that hold between them every operation of the space.

    An operation depends on the width of its own stage, on that of the stage before where it enters a stage, and on
    whether the block before it is local or global; blocks keep the shape of their stage. So every pair of neighbouring
    widths, with one block a stage, once all local and once global wherever that may be, leaves nothing out.
    """
    narrowest = [stage.widths[0] for stage in space.stages]
    ones = [1] * len(space.stages)
    attentions = [[0] * len(space.stages), [int(stage.global_ is not None) for stage in space.stages]]
    for index, (before, after) in enumerate(pairwise(space.stages)):
        for pair in product(before.widths, after.widths):
            widths = [*narrowest[:index], *pair, *narrowest[index + 2 :]]
            for attention in attentions:
                yield space.member(widths, ones, attention)
