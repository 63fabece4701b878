"""Costs and amounts of many members that differ in few stages, cached per stage, for slimming.

Costs, latencies and sizes add up over the stages of a network. What a stage adds depends only on
its blocks and on its input. A move changes one stage and perhaps the entry of the next, so all
other parts are in the cache.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from math import fsum

from nas.accuracy import Scores
from nas.blocks import (
    BlockSpec,
    EntrySpec,
    HeadSpec,
    Identity,
    Operation,
    Shape,
    Unflatten,
    pyramid,
)
from nas.search.graph import Arc, same_head
from nas.search.limits import Limit, Measure
from nas.search.problem import Problem
from nas.space import Architecture, Space, Stage
from nas.space.architecture import with_layout
from nas.space.candidates import ROLES
from nas.space.place import HEAD

_DIGITS = 9
"""Decimals of sums, as latency tables round them: sums equal those of `LatencyTable.total_ms`."""


class Prices:
    """The costs and amounts of members of a problem's space, from a cache.

    Members have a block or identity at every position of the space.

    Attributes:
        limits: latency first, infinite where it is not limited, then the further limits.
    """

    def __init__(self, problem: Problem) -> None:
        self.limits: tuple[Limit, ...] = (problem.latency, *problem.limits)
        self._cautious = problem.cautious_scores
        self._space = problem.space
        self._numbers: dict[Stage, int] = {}
        self._stages: list[Stage] = []
        # Members share the objects of stages that a move leaves alone. Hashing a stage takes more
        # time than all else here, so a stage is looked up by its identity first.
        self._by_id: dict[int, tuple[int, Stage]] = {}
        # Two stages that differ only in which positions are dropped have different numbers (their
        # costs may differ) but the same content (their amounts are equal).
        self._content: list[int] = []
        self._contents: dict[tuple[BlockSpec, ...], int] = {}
        self._stage_costs: dict[tuple[int, int, int], float] = {}
        self._end_costs: dict[BlockSpec | None, float] = {}
        self._of_block: dict[tuple[str, BlockSpec, Shape], tuple[tuple[float, ...], Shape]] = {}
        self._amounts: dict[tuple[str, int, int, Shape], tuple[tuple[float, ...], Shape]] = {}
        # By identity, as stages are; the stem is kept beside its shape.
        self._stem_shapes: dict[int, tuple[BlockSpec | None, Shape]] = {}
        self._of_operation: dict[tuple[str, BlockSpec, Shape], float] = {}
        self._of_ends: dict[tuple[str, BlockSpec, tuple[Shape, ...]], tuple[float, ...]] = {}

    def cost(self, arch: Architecture) -> float:
        """Return the cautious cost of a member in points, which searches minimise."""
        numbers = [self._number(stage) for stage in arch.stages]
        # A published member has a cost of its own, wherever its dropped positions are.
        known = self._known_costs.get(tuple(self._content[number] for number in numbers))
        if known is not None:
            for stem, head, cost in known:
                if stem == arch.stem and same_head(head, arch.head):
                    return cost
        total = self._end_cost(arch.stem) + self._end_cost(arch.head)
        before = self._stem_shape(arch.stem).channels
        for index, number in enumerate(numbers):
            key = index, number, before
            part = self._stage_costs.get(key)
            if part is None:
                part = self._stage_costs[key] = self._stage_cost(
                    index, self._stages[number], before
                )
            total += part
            before = self._stages[number].width
        return total

    def amount(self, measure: Measure, arch: Architecture) -> float:
        """Return `measure.total(arch)`, summed from the cached parts."""
        # A peak is not a sum over stages.
        if measure.peak:
            return measure.total(arch)
        shape = self._stem_shape(arch.stem)
        parts = [measure.base]
        if arch.stem is not None:
            parts += self._end_amounts(measure, arch.stem, (Shape(3, *self._space.resolution),))
        maps = []
        for index, stage in enumerate(arch.stages):
            number = self._content[self._number(stage)]
            key = measure.key, index, number, shape
            known = self._amounts.get(key)
            if known is None:
                known = self._amounts[key] = self._stage_amounts(measure, stage, shape)
            parts += known[0]
            shape = known[1]
            maps.append(shape)
        parts += self._end_amounts(measure, arch.head, tuple(maps))
        return round(fsum(parts), _DIGITS)

    def exceeded(self, arch: Architecture) -> Limit | None:
        """Return the limit that `arch` exceeds by the largest share; None where it keeps all."""
        exceeded = [limit for limit in self.limits if self.amount(limit.measure, arch) > limit.most]
        return max(
            exceeded, key=lambda limit: self.amount(limit.measure, arch) / limit.most, default=None
        )

    def content(self, arch: Architecture) -> tuple[object, ...]:
        """Return a key that is equal for equal networks, wherever their dropped positions are."""
        return arch.stem, arch.head, *(self._content[self._number(stage)] for stage in arch.stages)

    def _number(self, stage: Stage) -> int:
        """Return the number of a stage, the same for equal stages."""
        known = self._by_id.get(id(stage))
        if known is not None:
            return known[0]
        number = self._numbers.get(stage)
        if number is None:
            number = self._numbers[stage] = len(self._stages)
            self._stages.append(stage)
            self._content.append(
                self._contents.setdefault((stage.entry, *stage.present), len(self._contents))
            )
        # The stage is kept alive, so that no other object can get its id.
        self._by_id[id(stage)] = number, stage
        return number

    @cached_property
    def exceptions(self) -> list[Architecture]:
        """Return the members whose cost is not a sum of parts, at the size of the space."""
        space = self._space
        sized = (
            exception.at(space.resolution, space.classes)
            for exception in self._cautious.exceptions()
        )
        # With a head for another task it is another network, whose cost is the sum of its parts.
        return [
            space.place(arch)
            for arch in sized
            if space.contains(arch) and any(same_head(arch.head, head) for head in space.heads)
        ]

    @cached_property
    def _known_costs(self) -> dict[tuple[int, ...], list[tuple[EntrySpec | None, HeadSpec, float]]]:
        """Return stem, head and cost of the exceptions, by the contents of their stages."""
        known: dict[tuple[int, ...], list[tuple[EntrySpec | None, HeadSpec, float]]] = {}
        for arch in self.exceptions:
            key = tuple(self._content[self._number(stage)] for stage in arch.stages)
            known.setdefault(key, []).append((arch.stem, arch.head, self._cautious.cost(arch)))
        return known

    def _end_cost(self, block: EntrySpec | HeadSpec | None) -> float:
        if block is None:
            return 0.0
        cost = self._end_costs.get(block)
        if cost is None:
            scores = self._cautious
            cost = (
                scores.head_cost(block) if isinstance(block, HeadSpec) else scores.stem_cost(block)
            )
            self._end_costs[block] = cost
        return cost

    def _stage_cost(self, index: int, stage: Stage, before: int) -> float:
        scores = self._cautious
        counts = zip(*(scores.counts(index, block) for block in stage.blocks), strict=True)
        cost = scores.entry_cost(index, stage.entry, before)
        cost += scores.stage_cost(index, stage.width, tuple(map(sum, counts)))
        return cost + sum(
            scores.block_cost(index, p, block, stage.width) for p, block in enumerate(stage.blocks)
        )

    def _stem_shape(self, stem: BlockSpec | None) -> Shape:
        known = self._stem_shapes.get(id(stem))
        if known is None:
            image = Shape(3, *self._space.resolution)
            shape = stem.output_shape(image) if stem is not None else image
            known = self._stem_shapes[id(stem)] = stem, shape
        return known[1]

    def _stage_amounts(
        self, measure: Measure, stage: Stage, shape: Shape
    ) -> tuple[tuple[float, ...], Shape]:
        """Return what the operations of a stage with this input shape take, and its output shape."""
        amounts: list[float] = []
        for block in (stage.entry, *stage.present):
            key = measure.key, block, shape
            known = self._of_block.get(key)
            if known is None:
                operations = tuple(with_layout(HEAD, block, shape))
                own = tuple(self._of(measure, operation) for operation in operations)
                known = self._of_block[key] = own, operations[-1].output
            amounts += known[0]
            shape = known[1]
        return tuple(amounts), shape

    def _end_amounts(
        self, measure: Measure, block: BlockSpec, shapes: tuple[Shape, ...]
    ) -> tuple[float, ...]:
        """Return what each operation of the stem or the head takes.

        Args:
            measure: what is counted.
            block: the stem or the head.
            shapes: of the image for the stem, of all stage outputs for the head.
        """
        levels = block.levels if isinstance(block, HeadSpec) else 0
        shapes = shapes if levels else shapes[-1:]
        key = measure.key, block, shapes
        known = self._of_ends.get(key)
        if known is None:
            operations: list[Operation] = []
            shape = shapes[-1]
            if levels:
                # A head of several levels takes maps only, so tokens of the last stage are
                # unflattened first.
                if shape.layout == "tokens":
                    operations += with_layout(HEAD, Unflatten(), shape)
                maps = [replace(each, layout="map") for each in shapes]
                operations.append(Operation(str(HEAD), block, pyramid(maps[-levels:])))
            else:
                operations += with_layout(HEAD, block, shape)
            known = self._of_ends[key] = tuple(
                self._of(measure, operation) for operation in operations
            )
        return known

    def _of(self, measure: Measure, operation: Operation) -> float:
        """Return what one operation takes, through an arc made for it, as measures weigh arcs."""
        key = measure.key, operation.spec, operation.input
        amount = self._of_operation.get(key)
        if amount is None:
            arc = Arc(0, 0, HEAD, operation.spec, 0, (operation,))
            amount = self._of_operation[key] = measure.of(arc)
        return amount


def positional(space: Space, scores: Scores) -> bool:
    """Return whether the cost depends on the position of a block within its stage."""
    for index, stage in enumerate(space.stages):
        least, most = stage.depths
        for width in stage.widths:
            blocks: list[BlockSpec] = [
                block for role in ROLES for block in space.candidates(index, role, width)
            ]
            # Nothing is dropped in a stage of fixed depth, and recorded scores have no rows for it.
            blocks += [Identity()] if least < most else []
            for block in blocks:
                if (
                    len(
                        {
                            scores.block_cost(index, position, block, width)
                            for position in range(most)
                        }
                    )
                    > 1
                ):
                    return True
    return False
