"""The moves that turn a space's largest member into another one."""

from __future__ import annotations

from collections.abc import Iterator

from nas.blocks import Identity
from nas.search.problem import Problem, Step
from nas.space import Architecture, Space
from nas.space.moves import Drop, Exchange, Move, localise, narrow
from nas.space.place import HEAD, STEM, Place


def steps_to(problem: Problem, arch: Architecture) -> tuple[Step, ...]:
    """Return the moves from the largest member to `arch`, which has its positions, each with what
    it does to the amounts."""
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
    """Yield the moves, each with the member that it leads to: stage by stage first its width, then
    its positions in order, so that attention is taken away from the front."""
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
    """Yield the moves that make a block what it is in `arch`: one or, to a local block that is not
    the twin, two."""
    before = at.stages[index].blocks[position]
    block = arch.stages[index].blocks[position]
    if before == block:
        return
    if isinstance(block, Identity):
        yield Drop(index, position)
        return
    if space.stages[index].kind(before) == "global" and space.stages[index].kind(block) == "local":
        move = localise(space, at, index, position)
        yield move
        before = move.block
    if before != block:
        yield Exchange(Place.block(index, position), before, block)
