"""The cost of a block in place of its role's reference, from the exchanges that were scored.

`nas.accuracy.recorded` asks for it. Not every candidate has a row: some do not fit the largest
width, where exchanges are scored, and of many expansions only the ends are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import log

from nas.accuracy.hidden_widths import Family, between, expansion, family
from nas.accuracy.single_moves import Key, Score, choice_text, reference
from nas.blocks import BlockSpec
from nas.space import Space
from nas.space.candidates import ROLES, Role, likeness
from nas.space.place import Place


@dataclass(frozen=True)
class ExchangeCosts:
    """Costs of exchanged blocks, at every position and width of a scored space.

    Attributes:
        scored: the space that the exchanges were scored on.
        rows: the scored moves by key. A missing key raises the error that the user sees.
    """

    scored: Space
    rows: Mapping[Key, Score]
    # A search asks for the cost of a block at every width and node of its graph: in efficientformer
    # 18,708 times, for 320 different answers.
    _references: dict[tuple[int, int, Role], BlockSpec] = field(default_factory=dict, init=False)
    _measured: dict[tuple[int, Role, BlockSpec, BlockSpec, int], BlockSpec] = field(
        default_factory=dict, init=False
    )
    _costs: dict[tuple[int, int, BlockSpec], float] = field(default_factory=dict, init=False)
    _hidden: dict[tuple[int, int, Family], dict[float, float]] = field(
        default_factory=dict, init=False
    )

    def cost(self, index: int, position: int, role: Role, block: BlockSpec, width: int) -> float:
        """Return the cost of a block that is exchanged for the reference of its role.

        Args:
            index: of the stage, counted from 0.
            position: in the stage, counted from 0.
            role: of the block.
            block: a candidate of the position.
            width: of the stage, in channels.
        """
        if (index, position, role) not in self._references:
            self._references[index, position, role] = reference(self.scored, index, position, role)
        free = self._references[index, position, role]
        key = index, role, free, block, width
        if key not in self._measured:
            self._measured[key] = self._stand_in(*key)
        measured = self._measured[key]
        if measured == free:
            return 0.0
        if (index, position, measured) not in self._costs:
            self._costs[index, position, measured] = self._at_largest_width(
                index, position, free, measured
            )
        return self._costs[index, position, measured]

    def _stand_in(
        self, index: int, role: Role, free: BlockSpec, block: BlockSpec, width: int
    ) -> BlockSpec:
        """Return the candidate of the largest width whose cost stands for that of a block.

        Exchanges were measured at the largest width. At another width the reference may not fit,
        and a similar block replaces it. There a block costs what the same change of hyperparameters
        costs at the largest width.

        Args:
            index: of the stage, counted from 0.
            role: of the block.
            free: the reference of the role.
            block: a candidate of the stage.
            width: of the stage, in channels.
        """
        fitting = self.scored.fitted(index, free, width)
        if block == fitting:
            return free
        measured = self.scored.candidates(index, role, self.scored.stages[index].widths[-1])
        # What the block changes against the fitting one is applied to the reference.
        if block.kind == free.kind == fitting.kind:
            usual = fitting.hyperparameters()
            block = replace(
                free, **{k: v for k, v in block.hyperparameters().items() if v != usual[k]}
            )
        if block in measured:
            return block
        # Where that was not measured, the most similar candidate that was is taken.
        return max(measured, key=lambda other: likeness(block, other))

    def _at_largest_width(
        self, index: int, position: int, free: BlockSpec, block: BlockSpec
    ) -> float:
        """Return the cost of a candidate of the largest width in place of the reference.

        Args:
            index: of the stage, counted from 0.
            position: in the stage, counted from 0.
            free: the reference of the block's role.
            block: the candidate.
        """
        # Between scored hidden widths of its own family the cost is interpolated.
        own = self._by_expansion(index, position, block)
        cost = between(own, expansion(block))
        if cost is not None:
            return cost
        # Elsewhere the hidden width costs what it costs in the family of the reference, or of the
        # largest member's block at this place.
        start = min(own, key=lambda each: abs(log(each / expansion(block))), default=None)
        for other in (free, self.scored.largest().stages[index].blocks[position]):
            costs = self._by_expansion(index, position, other)
            after = between(costs, expansion(block))
            before = between(costs, start) if start is not None else None
            if start is not None and before is not None and after is not None:
                return own[start] + after - before
        return self.rows["exchange", str(Place.block(index, position)), choice_text(block)].cost

    def _by_expansion(self, index: int, position: int, block: BlockSpec) -> dict[float, float]:
        """Return the scored costs of the family of a block at a position, by expansion.

        Args:
            index: of the stage, counted from 0.
            position: in the stage, counted from 0.
            block: a candidate of the position.
        """
        key = index, position, family(block)
        if key not in self._hidden:
            costs = {}
            place = str(Place.block(index, position))
            for role in ROLES:
                candidates = self.scored.stages[index].candidates(role)
                free = reference(self.scored, index, position, role) if candidates else None
                for each in candidates:
                    row = self.rows.get(("exchange", place, choice_text(each)))
                    if family(each) != family(block):
                        continue
                    if each == free:
                        costs[expansion(each)] = 0.0
                    elif row is not None:
                        costs[expansion(each)] = row.cost
            self._hidden[key] = costs
        return self._hidden[key]
