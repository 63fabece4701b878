"""Freeze parts of a space: leave one member's choices there, and search the others.

`nas.search.pose` calls it. A frozen part is one that a product already has, such as a stem and first
stages whose weights or silicon are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.errors import InputError
from nas.space.architecture import Architecture
from nas.space.place import HEAD, STEM, Place
from nas.space.space import Space


def freezable(space: Space) -> list[str]:
    """Return the names of the parts that can be frozen, in the order of the network."""
    stages = [str(Place.whole(index)) for index in range(len(space.stages))]
    return [str(STEM), *stages, str(HEAD)]


def freeze(space: Space, parts: Sequence[str], start: Architecture) -> tuple[Space, Architecture]:
    """Return the members of a space that have the parts of one member, and that member.

    A frozen stage keeps its width, its entry and the block at every position. The entry takes the
    channels of whatever comes before it. Where no block stands before stage 1, the stem is the
    entry of stage 1, so that a frozen stem keeps the width of stage 1 too.

    Args:
        space: at the size of the search.
        parts: `stem`, `stage1` and so on, or `head`.
        start: the member, of any size.

    Raises:
        InputError: the space has no such part, or `start` is not a member.
    """
    known = freezable(space)
    for part in parts:
        if part not in known:
            raise InputError(
                f"--freeze {part}: space '{space.name}' does not have this part (it has"
                f" {', '.join(known)}). Fix: --freeze {known[1]}"
            )
    start = _placed(space, start)
    for place in dict.fromkeys(map(Place.parse, parts)):
        space = _with_part(space, place, start)
    return space, start


def _placed(space: Space, start: Architecture) -> Architecture:
    """Return the start at the size of a space, with a block or identity at every position."""
    # A head for another task than the space's is no part of the members.
    if not any(start.head.task == head.task for head in space.heads):
        start = replace(start, head=space.heads[0])
    start = start.at(space.resolution, space.classes)
    try:
        space.validate(start)
    except ValueError as error:
        raise InputError(
            f"--start {start.name}: is not a member of space '{space.name}': {error}. Fix: name one,"
            f" such as {next(iter(space.published), 'the folder of a run in this space')}"
        ) from None
    return space.place(start)


def _with_part(space: Space, part: Place, start: Architecture) -> Space:
    """Return the space with one part frozen."""
    if part == HEAD:
        return replace(space, heads=(start.head,))
    if part == STEM and start.stem is not None:
        return replace(space, stems=(start.stem,))
    index = part.stage or 0
    stage = start.stages[index]
    only = replace(space.stages[index], entries=(stage.entry,), widths=(stage.width,))
    if part != STEM:
        only = replace(only, fixed=stage)
    return replace(space, stages=(*space.stages[:index], only, *space.stages[index + 1 :]))
