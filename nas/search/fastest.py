"""The member of a space that a latency table says is fastest, exactly, by dynamic programming over the stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nas import resources
from nas.latency import LatencyTable
from nas.space import Architecture, Operation, Space, StageSpace
from nas.specs import BlockSpec, Flatten, Shape, Unflatten

_State = tuple[Shape, bool]
"""What a stage hands on: its output's shape, and whether it ends in a global block, after which none may be local."""
_Pick = tuple[int, int, int]
"""Width, local blocks and global blocks of a stage."""


def fastest(space: Space, table: LatencyTable) -> tuple[float, Architecture]:
    """The smallest predicted latency (ms) in `space`, and a member that has it.

    A stage's latency depends on the rest of the network only through the shape that comes in and, where global blocks
    must be the network's last, on whether one stands before it; so the best way to every such state is enough.

    Raises:
        MissingRows: when `table` lacks rows for some members; all of them are in its `operations`.
    """
    return _Program(space, table).solve()


class _Program:
    def __init__(self, space: Space, table: LatencyTable) -> None:
        self._space, self._table = space, table
        self._steps: dict[tuple[BlockSpec, Shape], tuple[float, Shape]] = {}
        self._missing: dict[tuple[str, str, str], Operation] = {}

    def solve(self) -> tuple[float, Architecture]:
        states: dict[_State, tuple[float, tuple[_Pick, ...]]] = {(Shape(3, *self._space.resolution), False): (0.0, ())}
        for stage in self._space.stages:
            after: dict[_State, tuple[float, tuple[_Pick, ...]]] = {}
            ways: dict[tuple[Shape, bool], list[tuple[float, _State, int, int]]] = {}
            for (shape, begun), (ms, picks) in states.items():
                for width in stage.widths:
                    entry_ms, inside = self._step(replace(stage.entry, width=width), shape)  # type: ignore[call-arg]
                    if (inside, begun) not in ways:
                        ways[inside, begun] = list(self._blocks(stage, inside, begun))
                    for blocks_ms, state, locals_, globals_ in ways[inside, begun]:
                        total = ms + entry_ms + blocks_ms
                        if state not in after or total < after[state][0]:
                            after[state] = total, (*picks, (width, locals_, globals_))
            states = after
        _, picks = min(
            (ms + self._step(self._space.head, shape)[0], picks) for (shape, _), (ms, picks) in states.items()
        )
        if self._missing:
            raise self._table.missing_rows(tuple(self._missing.values()), _argument(self._space))
        arch = self._space.member(
            widths=[width for width, _, _ in picks],
            depths=[local + global_ for _, local, global_ in picks],
            attention=[global_ for _, _, global_ in picks],
            name=f"{self._space.name}-fastest",
        )
        return self._table.total_ms(arch), arch

    def _blocks(self, stage: StageSpace, shape: Shape, begun: bool) -> Iterator[tuple[float, _State, int, int]]:
        """Every way to fill a stage that is entered with `shape`: ms, the state after it, local and global blocks."""
        least, most = stage.depths
        only_global = begun and self._space.placement == "network_suffix"
        for locals_ in range(0, 1 if only_global else most + 1):
            ms, middle = self._run(stage.local, shape, locals_)
            for globals_ in range(max(0, least - locals_), most - locals_ + 1 if stage.global_ else 1):
                more, end = self._run(stage.global_ or stage.local, middle, globals_)
                yield ms + more, (end, globals_ > 0), locals_, globals_

    def _run(self, spec: BlockSpec, shape: Shape, count: int) -> tuple[float, Shape]:
        total = 0.0
        for _ in range(count):
            ms, shape = self._step(spec, shape)
            total += ms
        return total, shape

    def _step(self, spec: BlockSpec, shape: Shape) -> tuple[float, Shape]:
        """Milliseconds and output shape of one block, the change of layout before it included."""
        known = self._steps.get((spec, shape))
        if known is None:
            before, inside = 0.0, shape
            if spec.layout != shape.layout:
                before, inside = self._step(Flatten() if spec.layout == "tokens" else Unflatten(), shape)
            operation = Operation(spec.kind, spec, inside)
            ms = self._table.ms(operation)
            if ms is None:
                self._missing[operation.key] = operation
            known = self._steps[spec, shape] = before + (ms or 0.0), operation.output
        return known


def _argument(space: Space) -> str:
    """What --space takes for it: the name where that finds this file, else the path."""
    known = resources.names(resources.SPACES, "*.yaml").get(space.name)
    return space.name if not space.path or str(known) == space.path else space.path
