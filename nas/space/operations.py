"""Every distinct operation of a space's members: the rows that a latency table needs.

Profiling, estimation and the check of a table's coverage ask for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

from nas.blocks import BlockSpec, HeadSpec, Operation, Shape, Unflatten, pyramid
from nas.space import Space
from nas.space.architecture import with_layout
from nas.space.candidates import ROLES, Role
from nas.space.place import HEAD, STEM, Place


def space_operations(space: Space) -> list[Operation]:
    """Return the distinct operations (by key) of all members of `space`, or their parts.

    A table has a row for each. Each is named after one of the places where it occurs.
    """
    distinct: dict[tuple[str, str, str], Operation] = {}
    for operation in _walk(space):
        distinct.setdefault(operation.key, operation)
    return list(distinct.values())


def _walk(space: Space) -> Iterator[Operation]:
    """Yield all operations from the image to the head, some of them repeatedly.

    An operation depends on its block and on its input shape, which is the width and layout of the
    block before it. So no member is enumerated: every place is visited once with each of its
    candidates, on every shape that can come in.
    """
    shapes = {Shape(3, *space.resolution)}
    if space.stems:
        stems = list(_each(STEM, space.stems, shapes))
        yield from stems
        shapes = {operation.output for operation in stems}
    for index, stage in enumerate(space.stages):
        place = Place.entry(index, bool(space.stems))
        for width in stage.widths:
            yield from _each(place, (replace(e, width=width) for e in stage.entries), shapes)
        inside = [space.shape(index, width) for width in stage.widths]
        shapes = set()
        for shape in inside:
            # Local blocks come first, so global ones see the shapes after both. What leaves the
            # stage may be a map or, after attention on tokens, tokens.
            reached = {shape}
            for role in ROLES:
                blocks = list(
                    _each(Place.block(index, 0), _fitting(space, index, role, shape), reached)
                )
                yield from blocks
                reached |= {operation.output for operation in blocks}
            shapes |= reached
    last = len(space.stages) - 1
    for head in space.heads:
        if head.layout != "pyramid":
            yield from _each(HEAD, (head,), shapes, last)
            continue
        # A pyramid head reads maps: tokens that leave the last stage are reshaped before it.
        tokens = (shape for shape in shapes if shape.layout == "tokens")
        yield from _each(Place.reshape(last, Unflatten.kind), (Unflatten(),), tokens)
        for operation in _each(HEAD, (head,), _pyramids(space, head)):
            yield from operation.parts


def _pyramids(space: Space, head: HeadSpec) -> Iterator[Shape]:
    """Yield the inputs of a head that takes the maps of several stages, at all of their widths."""
    stages = list(enumerate(space.stages))[-head.levels :]
    for maps in product(
        *([space.shape(index, width) for width in stage.widths] for index, stage in stages)
    ):
        yield pyramid(maps)


def _fitting(space: Space, index: int, role: Role, shape: Shape) -> tuple[BlockSpec, ...]:
    return space.candidates(index, role, shape.channels)


def _each(
    place: Place, blocks: Iterable[BlockSpec], shapes: Iterable[Shape], stage: int | None = None
) -> Iterator[Operation]:
    """Yield every block on every shape, after the change of layout that it needs.

    Args:
        stage: the stage that the change of layout belongs to; by default that of `place`.
    """
    # Sorted: the order of a set differs from process to process, and would reorder the rows.
    known = sorted(shapes, key=str)
    for block in blocks:
        for shape in known:
            yield from with_layout(
                place, block, shape, (place.stage or 0) if stage is None else stage
            )
