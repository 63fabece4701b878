"""The member of a space that a latency table says is fastest, exactly, by dynamic programming over the stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nas import resources
from nas.latency import LatencyTable
from nas.space import Architecture, Operation, Space, Stage
from nas.specs import BlockSpec, Flatten, Shape, Unflatten, pyramid

_State = tuple[Shape, bool, tuple[Shape, ...]]
"""What a stage hands on: its output's shape, whether it ends in a global block, after which none may be local, and for
a head that takes a pyramid the maps so far."""

_Filling = tuple[float, tuple[Shape, bool], tuple[BlockSpec, ...]]
"""What the blocks of a stage take in ms, what they leave, and which they are."""


@dataclass(frozen=True)
class _Way:
    """A way to get somewhere: what it takes in ms, and the stages so far."""

    ms: float
    stages: tuple[Stage, ...] = ()
    stem: BlockSpec | None = None


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
        # How many of the last stages some head takes the maps of.
        self._levels = max((h.levels for h in space.heads if h.layout == "pyramid"), default=0)  # type: ignore[attr-defined]

    def solve(self) -> tuple[float, Architecture]:
        states = self._stems()
        for index in range(len(self._space.stages)):
            states = self._stage(index, states)
        ends = [
            (way.ms + self._head_ms(head, shape, maps), way, head)
            for (shape, _, maps), way in states.items() for head in self._space.heads
        ]  # fmt: skip
        if self._missing:
            raise self._table.missing_rows(tuple(self._missing.values()), _argument(self._space))
        _, way, head = min(ends, key=lambda end: end[0])
        name = f"{self._space.name}-fastest"
        arch = Architecture(self._space.name, self._space.resolution, way.stages, head, name, way.stem)
        return self._table.total_ms(arch), arch

    def _stems(self) -> dict[_State, _Way]:
        image, states = Shape(3, *self._space.resolution), dict[_State, _Way]()
        for stem in self._space.stems:
            ms, shape = self._step(stem, image)
            _keep(states, (shape, False, ()), _Way(ms, (), stem))
        return states or {(image, False, ()): _Way(0.0)}

    def _head_ms(self, head: BlockSpec, shape: Shape, maps: tuple[Shape, ...]) -> float:
        if head.layout != "pyramid":
            return self._step(head, shape)[0]
        last = self._step(Unflatten(), shape)[0] if shape.layout == "tokens" else 0.0
        return last + self._step(head, pyramid(maps[-head.levels :]))[0]  # type: ignore[attr-defined]

    def _stage(self, index: int, states: dict[_State, _Way]) -> dict[_State, _Way]:
        """The best ways through one more stage: first into it, then through its blocks."""
        stage, tapped = self._space.stages[index], index >= len(self._space.stages) - self._levels
        entered: dict[_State, _Way] = {}
        for (shape, begun, maps), way in states.items():
            for width in stage.widths:
                entries = [replace(entry, width=width) for entry in stage.entries]  # type: ignore[call-arg]
                ms, inside, entry = self._quickest(entries, shape)
                seen = (*maps, inside) if tapped else ()
                _keep(entered, (inside, begun, seen), _Way(way.ms + ms, (*way.stages, Stage(entry, ())), way.stem))
        after: dict[_State, _Way] = {}
        fillings: dict[tuple[Shape, bool], list[_Filling]] = {}
        for (inside, begun, maps), way in entered.items():
            if (inside, begun) not in fillings:
                fillings[inside, begun] = list(self._fillings(index, inside.channels, inside, begun))
            for ms, (shape, ended), blocks in fillings[inside, begun]:
                stages = (*way.stages[:-1], replace(way.stages[-1], blocks=blocks))
                _keep(after, (shape, ended, maps), _Way(way.ms + ms, stages, way.stem))
        return after

    def _fillings(self, index: int, width: int, shape: Shape, begun: bool) -> Iterator[_Filling]:
        """Every number of local and global blocks, each the fastest of its candidates: ms, the state after, blocks."""
        stage, (least, most) = self._space.stages[index], self._space.stages[index].depths
        only_global = begun and self._space.placement == "network_suffix"
        local, global_ = (self._space.candidates(index, role, width) for role in ("local", "global"))
        for locals_ in range(0, 1 if only_global else most + 1):
            ms, middle, blocks = self._run(local, shape, locals_)
            for globals_ in range(max(0, least - locals_), most - locals_ + 1 if stage.global_ else 1):
                more, end, others = self._run(global_, middle, globals_)
                yield ms + more, (end, globals_ > 0), (*blocks, *others)

    def _run(
        self, candidates: Sequence[BlockSpec], shape: Shape, count: int
    ) -> tuple[float, Shape, tuple[BlockSpec, ...]]:
        """The fastest way through `count` blocks. All candidates of a place take and give the same layout."""
        total, blocks = 0.0, []
        for _ in range(count):
            ms, shape, block = self._quickest(candidates, shape)
            total += ms
            blocks.append(block)
        return total, shape, tuple(blocks)

    def _quickest(self, candidates: Sequence[BlockSpec], shape: Shape) -> tuple[float, Shape, BlockSpec]:
        return min(((*self._step(block, shape), block) for block in candidates), key=lambda step: step[0])

    def _step(self, spec: BlockSpec, shape: Shape) -> tuple[float, Shape]:
        """Milliseconds and output shape of one block, the change of layout before it included."""
        known = self._steps.get((spec, shape))
        if known is None:
            before, inside = 0.0, shape
            if spec.layout not in (shape.layout, "pyramid"):
                before, inside = self._step(Flatten() if spec.layout == "tokens" else Unflatten(), shape)
            operation = Operation(spec.kind, spec, inside)
            ms = self._table.ms(operation)
            if ms is None:
                self._missing[operation.key] = operation
            known = self._steps[spec, shape] = before + (ms or 0.0), operation.output
        return known


def _keep(states: dict[_State, _Way], state: _State, way: _Way) -> None:
    if state not in states or way.ms < states[state].ms:
        states[state] = way


def _argument(space: Space) -> str:
    """What --space takes for it: the name where that finds this file, else the path."""
    known = resources.names(resources.SPACES, "*.yaml").get(space.name)
    return space.name if not space.path or str(known) == space.path else space.path
