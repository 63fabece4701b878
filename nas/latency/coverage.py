"""Every operation that some member of a space can need: what a table must have rows for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

from nas.space import Operation, Space
from nas.space.architecture import entry_name, with_layout
from nas.space.space import ROLES, Role
from nas.specs import BlockSpec, HeadSpec, Shape, Unflatten, pyramid


def space_operations(space: Space) -> list[Operation]:
    """The distinct operations (by key) of all members of `space`, each named after a place where it stands."""
    found: dict[tuple[str, str, str], Operation] = {}
    for operation in _walk(space):
        found.setdefault(operation.key, operation)
    return list(found.values())


def _walk(space: Space) -> Iterator[Operation]:
    """All operations from the image to the head.

    An operation depends on its block and on the shape that comes in: the width and layout that what stands before it
    leaves. So every place is met with each of its candidates, once for every shape that can come in.
    """
    shapes = {Shape(3, *space.resolution)}
    if space.stems:
        stems = list(_each("stem", space.stems, shapes))
        yield from stems
        shapes = {operation.output for operation in stems}
    for index, stage in enumerate(space.stages):
        place = entry_name(index, space.stems[0] if space.stems else None)
        for width in stage.widths:
            yield from _each(place, (replace(e, width=width) for e in stage.entries), shapes)
        inside = [space.shape(index, width) for width in stage.widths]
        shapes = set()
        for shape in inside:
            reached = {shape}
            for role in ROLES:
                blocks = list(_each(f"stage{index + 1}_block1", _fitting(space, index, role, shape), reached))
                yield from blocks
                reached |= {operation.output for operation in blocks}
            shapes |= reached
    for head in space.heads:
        if head.layout != "pyramid":
            yield from _each("head", (head,), shapes)
            continue
        tokens = (shape for shape in shapes if shape.layout == "tokens")
        yield from _each(f"stage{len(space.stages)}_{Unflatten.kind}", (Unflatten(),), tokens)
        yield from _each("head", (head,), _pyramids(space, head))


def _pyramids(space: Space, head: HeadSpec) -> Iterator[Shape]:
    """The maps of the stages that a head takes, at all of their widths."""
    stages = list(enumerate(space.stages))[-head.levels :]
    for maps in product(*([space.shape(index, width) for width in stage.widths] for index, stage in stages)):
        yield pyramid(maps)


def _fitting(space: Space, index: int, role: Role, shape: Shape) -> tuple[BlockSpec, ...]:
    return space.candidates(index, role, shape.channels)


def _each(place: str, blocks: Iterable[BlockSpec], shapes: Iterable[Shape]) -> Iterator[Operation]:
    """Every block on every shape, with the change of layout that it needs."""
    known = sorted(shapes, key=str)
    for block in blocks:
        for shape in known:
            yield from with_layout(place.partition("_")[0], place, block, shape)
