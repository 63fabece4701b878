"""The moves that turn a space's largest member into another one; engines report them as a trace."""

from __future__ import annotations

from collections.abc import Iterator

from nas.blocks import Identity
from nas.search.problem import Problem, Step
from nas.space import Architecture, Space
from nas.space.moves import Drop, Exchange, Move, localise, narrow
from nas.space.place import HEAD, STEM, Place


def steps_to(problem: Problem, arch: Architecture) -> tuple[Step, ...]:
    """Return the moves from the largest member to `arch`, with latency and cost after each.

    Args:
        problem: of the search.
        arch: a member with a block or identity at every position of the largest one.
    """
    latency = problem.latency.measure
    scores = problem.scores
    before = problem.space.largest()
    ms = latency.total(before)
    cost = scores.cost(before)
    steps = list[Step]()
    for move, after in moves_to(problem.space, arch):
        was_ms = ms
        was_cost = cost
        ms = latency.total(after)
        cost = scores.cost(after)
        steps.append(
            Step(
                len(steps) + 1,
                move,
                ms,
                was_ms - ms,
                cost - was_cost,
                cost,
                after.macs,
                after.params,
            )
        )
    return tuple(steps)


def moves_to(space: Space, arch: Architecture) -> Iterator[tuple[Move, Architecture]]:
    """Yield the moves from the largest member to `arch`, each with the member that it leads to.

    They go from the stem to the head, in each stage first the width and then the positions in
    order. So global blocks are removed from the front, and every step is a member.
    """
    at = space.largest()
    if arch.stem is not None and at.stem is not None and arch.stem != at.stem:
        move: Move = Exchange(STEM, at.stem, arch.stem)
        at = move.apply(at)
        yield move, at
    for index, stage in enumerate(arch.stages):
        if stage.width != at.stages[index].width:
            move = narrow(space, at, index, stage.width)
            at = move.apply(at)
            yield move, at
        if stage.entry != at.stages[index].entry:
            move = Exchange(
                Place.entry(index, at.stem is not None), at.stages[index].entry, stage.entry
            )
            at = move.apply(at)
            yield move, at
        for position in range(len(stage.blocks)):
            for move in _at_position(space, at, arch, index, position):
                at = move.apply(at)
                yield move, at
    if arch.head != at.head:
        move = Exchange(HEAD, at.head, arch.head)
        yield move, move.apply(at)


def _at_position(
    space: Space, at: Architecture, arch: Architecture, index: int, position: int
) -> Iterator[Move]:
    """Yield the moves that turn the block at a position into that of `arch`.

    There are none, one, or two: a global block first becomes the local block that is most like it,
    which is then exchanged for another local one.
    """
    before = at.stages[index].blocks[position]
    block = arch.stages[index].blocks[position]
    if before == block:
        return
    if isinstance(block, Identity):
        yield Drop(index, position)
        return
    # MR leads to the most similar local block. Another local one takes a further exchange.
    if space.stages[index].kind(before) == "global" and space.stages[index].kind(block) == "local":
        move = localise(space, at, index, position)
        yield move
        before = move.block
    if before != block:
        yield Exchange(Place.block(index, position), before, block)
