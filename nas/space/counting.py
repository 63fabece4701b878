"""Count the different networks of a space, and the ways to place global blocks; `Space` calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.space.space import Space


def count_members(space: Space) -> int:
    """Return the number of different networks in a space."""
    # A block after a global one must be global too, within the stage or the network. So the
    # stages so far are counted by whether they have no global block (`free`) or some (`bound`).
    free = 1
    bound = 0
    for index, stage in enumerate(space.stages):
        local_only, mixed, all_global = (
            sum(parts)
            for parts in zip(
                *(_fillings(space, index, width) for width in stage.widths), strict=True
            )
        )
        if space.placement == "network_suffix":
            # Behind a global block a stage holds global ones, or none where it may be empty.
            may_be_empty = stage.possible_depths[0] == 0
            empty = len(stage.entries) * len(stage.widths) if may_be_empty else 0
            free, bound = (
                free * local_only,
                free * (mixed + all_global) + bound * (all_global + empty),
            )
        else:
            free *= local_only + mixed + all_global
    return (free + bound) * len(space.heads) * max(len(space.stems), 1)


def _fillings(space: Space, index: int, width: int) -> tuple[int, int, int]:
    """Return in how many ways a stage of this width can be filled.

    The three numbers are of local blocks only, of both kinds, and of global blocks only.
    """
    stage = space.stages[index]
    if stage.fixed is not None:
        attention = stage.fixed_global
        whole = attention == stage.fixed.depth and attention > 0
        return int(attention == 0), int(attention > 0 and not whole), int(whole)
    locals_ = len(space.candidates(index, "local", width))
    globals_ = len(space.candidates(index, "global", width))
    local_only = mixed = all_global = 0
    for depth in stage.possible_depths:
        local_only += locals_**depth
        # A stage without blocks has no global one: it counts once, as local.
        all_global += globals_**depth if depth else 0
        mixed += sum(locals_ ** (depth - count) * globals_**count for count in range(1, depth))
    ways = [len(stage.entries) * number for number in (local_only, mixed, all_global)]
    return ways[0], ways[1], ways[2]


def attention_counts(space: Space, depths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield every allowed tuple of numbers of global blocks per stage.

    Args:
        space: of the members.
        depths: of each stage.
    """
    # A frozen stage has the global blocks that it has, whatever depth is given.
    kept = {i: stage.fixed_global for i, stage in enumerate(space.stages) if stage.fixed}
    for counts in _suffixes(space, depths):
        if all(counts[index] == count for index, count in kept.items()):
            yield counts


def _suffixes(space: Space, depths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield what `attention_counts` does, as if no stage were frozen but for its depth."""
    depths = [
        stage.fixed.depth if stage.fixed else depth
        for stage, depth in zip(space.stages, depths, strict=True)
    ]
    room = [depth if space.has_global(i) else 0 for i, depth in enumerate(depths)]
    if space.placement == "stage_suffix":
        yield from product(*(range(count + 1) for count in room))
        return
    # Where global blocks end the network, a stage has some only if all later stages are global.
    counts = [0] * len(room)
    yield tuple(counts)
    # A stage that may have no global block ends the suffix: stages before it have none either.
    # `counts` stays full for the stages behind `index`, as their loops ended there.
    for index in reversed(range(len(room))):
        if depths[index] and not room[index]:
            return
        for count in range(1, room[index] + 1):
            counts[index] = count
            yield tuple(counts)
