"""Which hidden widths of a block are scored, and the costs of those between them.

A space may give every block six expansions. To evaluate each one at each position would take four
times as long as all other moves together. So only the narrowest is evaluated, and the cost of the
others is interpolated. `nas.accuracy.single_moves` lists the moves, `nas.accuracy.recorded` adds
up their costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nas.blocks import BlockSpec

FEW = 3
"""Number of expansions of a family up to which each one is scored."""
Family = tuple[str, tuple[tuple[str, str], ...]]
"""Kind and hyperparameters of a block, without its expansion."""


def expansion(block: BlockSpec) -> float:
    """Return the hidden width of a block over its channels; 1 for a block without a hidden layer."""
    return float(getattr(block, "expansion", 1.0))


def family(block: BlockSpec) -> Family:
    """Return what a block has in common with those that differ from it in their expansion alone."""
    values = tuple((name, text) for name, text in block.texts().items() if name != "expansion")
    return block.kind, values


def nearest(candidates: Sequence[BlockSpec], block: BlockSpec) -> BlockSpec:
    """Return the candidate whose expansion is most like that of `block`; of equal ones the first."""
    return min(candidates, key=lambda each: abs(math.log(expansion(each) / expansion(block))))


def scored_candidates(
    candidates: Sequence[BlockSpec], reference: BlockSpec, lent: tuple[float, float] | None = None
) -> list[BlockSpec]:
    """Return the candidates of a place and role that need a row, beside the reference.

    Families of at most `FEW` expansions are scored in full. Of a larger one these are the narrowest
    and the widest block in the reference's family, and in any other family the block whose
    expansion is most like the reference's: its other hidden widths cost what they cost in the
    reference's family. Where that has not as many, the ends of the other are scored too.

    Args:
        candidates: of the place and role.
        reference: the candidate that costs 0.
        lent: least and most expansion that are scored in the other role at this place, and stand
            for those of this role; None where there is none.
    """
    families: dict[Family, list[BlockSpec]] = {}
    for block in candidates:
        families.setdefault(family(block), []).append(block)
    ranges = [expansions(families[family(reference)]), *([lent] if lent else [])]
    scored = []
    for name, members in families.items():
        if len(members) <= FEW:
            scored += members
            continue
        least, most = expansions(members)
        own = name == family(reference)
        known = ranges[1:] if own else ranges
        if not own:
            scored.append(nearest(members, reference))
        if not any(low <= least and most <= high for low, high in known):
            scored += [min(members, key=expansion), max(members, key=expansion)]
    return [block for block in dict.fromkeys(scored) if block != reference]


def expansions(blocks: Sequence[BlockSpec]) -> tuple[float, float]:
    """Return the least and the most expansion of some blocks."""
    values = [expansion(block) for block in blocks]
    return min(values), max(values)


def between(costs: Mapping[float, float], value: float) -> float | None:
    """Return the cost at an expansion, interpolated between scored ones; None outside of them.

    The interpolation is linear in the logarithm: each halving of the hidden width between two scored
    ones costs the same. It is monotone between them, and linear in the costs.

    Args:
        costs: by expansion; the reference's is 0.
        value: the expansion.
    """
    if value in costs:
        return costs[value]
    below = max((each for each in costs if each < value), default=None)
    above = min((each for each in costs if each > value), default=None)
    if below is None or above is None:
        return None
    share = math.log(value / below) / math.log(above / below)
    return costs[below] + share * (costs[above] - costs[below])
