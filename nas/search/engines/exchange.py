"""The end of slimming: a local search that trades moves for one another, while the limits hold and
the cost falls.

Slimming goes down one move at a time and never looks back, so that it ends with room below the
target, and with early moves that it would not take again. Here a reduction is undone where another
one pays for it, for as long as that helps.

A member's variants of a stage are what one or two moves of that stage lead to. Costs and amounts of
variants of different stages nearly add up (only entries see two stages), so that sums of
differences rank all pairs and triples of variants at once; the first ones are then priced for
certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Identity
from nas.search.engines.label_setting import undominated
from nas.search.engines.prices import Prices
from nas.search.graph import Floats
from nas.space import Architecture, Space
from nas.space.moves import Drop, Exchange, Move, Narrow, Restore, moves, narrow, undoings

_GAIN = 1e-6
"""Points that a trade must gain."""
_TRIED = 200
"""Combinations priced for certain, of those that look best."""
_LOOSE = 0.02
"""By what share of a limit a sum of differences may exceed it: it is an estimate."""
_HOPE = 0.05
"""Points by which a sum of differences may be better than it looks."""
_LARGEST = 4_000_000
"""Combinations of variants looked at in one go, at most."""
_FEW = 60
"""Moves of a stage of which all pairs are looked at."""
_ROUNDING = 1e-9
"""Points, ms and other amounts that differ by less are equal."""
_ROUNDS = 200
"""Trades, at most."""
Interplay = dict[tuple[int | str, int | str], Floats]


@dataclass(frozen=True)
class _Variant:
    """What moves of one stage lead to, from the member at hand: the differences in cost and in
    every limited amount."""

    moves: tuple[Move, ...]
    after: Architecture
    cost: float
    amounts: tuple[float, ...]


Variants = dict[int | str, list[_Variant]]
"""By the stage (from 0) that they change, or the stem or the head, in the order of the network."""


def trades(
    space: Space, prices: Prices, positional: bool, arch: Architecture
) -> Iterator[tuple[Move, Architecture]]:
    """Yield the moves that improve a member which keeps the limits, each with where it leads.

    After every trade (of one to some moves) the limits hold and the cost is lower than before it;
    within one they may be exceeded.
    """
    for _ in range(_ROUNDS):
        chosen = _trade(space, prices, positional, arch)
        if chosen is None:
            return
        for move in chosen:
            arch = move.apply(arch)
            yield move, arch


def _trade(space: Space, prices: Prices, positional: bool, arch: Architecture) -> list[Move] | None:
    """Return the moves of the next trade; None where none helps."""
    variants = _variants(space, prices, positional, arch)
    chosen = _best(space, prices, arch, variants, 3)
    if chosen is None:
        # Widths of all stages together: one alone is paid for in the entries on both sides, which
        # pairs now count.
        chosen = _best(space, prices, arch, variants, 4, _interplay(prices, arch, variants))
    if chosen is None:
        deeper = _deeper(space, prices, positional, arch, variants)
        chosen = _best(space, prices, arch, deeper, 4, _interplay(prices, arch, deeper))
    return chosen


def distinct(space: Space, arch: Architecture, every: Sequence[Move]) -> list[Move]:
    """Return the moves without those that lead to the same network as another one, by way of
    another position.

    For costs that belong to no position only. Kept is the move that leaves local blocks at the
    first positions of their stage and global ones at the last, as `Space.place` puts them.
    """
    kept: dict[object, Move] = {}
    for move in every:
        key, first = _key(space, arch, move)
        if not (first and key in kept):
            kept[key] = move
    return list(kept.values())


def _key(space: Space, arch: Architecture, move: Move) -> tuple[object, bool]:
    """Return what makes a move different from others, and whether the first of equal ones is to be
    kept."""
    if isinstance(move, Drop):
        block = arch.stages[move.stage].blocks[move.position]
        return ("drop", move.stage, block), space.stages[move.stage].kind(block) == "global"
    if isinstance(move, Restore):
        is_local = space.stages[move.stage].kind(move.block) == "local"
        is_back = isinstance(move.before, Identity)
        return ("restore", move.stage, move.before, move.block), is_local and is_back
    if isinstance(move, Exchange) and move.place.part == "block":
        return ("exchange", move.place.stage, move.before, move.block), True
    return move, True


def _neighbours(
    space: Space, positional: bool, arch: Architecture, place: int | str | None = None
) -> list[Move]:
    """Return every move from a member, to all smaller widths and with those that undo others.

    With `place` only the moves of that stage (from 0), of the stem or of the head.
    """
    every: list[Move] = [move for move in moves(space, arch) if not isinstance(move, Narrow)]
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        if place is None or place == index:
            every += [
                narrow(space, arch, index, width) for width in choice.widths if width < stage.width
            ]
    if not isinstance(place, str):
        every += undoings(space, arch, place)
    if place is not None:
        every = [move for move in every if _stage(move) == place]
    return every if positional else distinct(space, arch, every)


def _stage(move: Move) -> int | str:
    """Return the stage (from 0) that a move changes, or the stem or the head."""
    if not isinstance(move, Exchange):
        return move.stage
    return move.place.part if move.place.stage is None else move.place.stage


def _variants(space: Space, prices: Prices, positional: bool, arch: Architecture) -> Variants:
    """Return what single moves lead to, by the stage that they change."""
    places: list[int | str] = ["stem", *range(len(arch.stages)), "head"]
    variants: Variants = {place: [] for place in places}
    cost = prices.cost(arch)
    amounts = _amounts(prices, arch)
    for move in _neighbours(space, positional, arch):
        variant = _variant(prices, (move,), move.apply(arch), cost, amounts)
        variants[_stage(move)].append(variant)
    return {place: some for place, some in variants.items() if some}


def _deeper(
    space: Space, prices: Prices, positional: bool, arch: Architecture, once: Variants
) -> Variants:
    """Return what one or two moves of the same stage, or another width with many drops or blocks
    put back, lead to.

    Each network is listed once, and none that another one beats which looks the same to its
    neighbours.
    """
    cost = prices.cost(arch)
    amounts = _amounts(prices, arch)
    found: Variants = {}
    for place, variants in once.items():
        seen: set[object] = {prices.content(variant.after) for variant in variants}
        seen.add(prices.content(arch))
        listed = list(variants)

        def add(
            taken: tuple[Move, ...], after: Architecture, seen: set[object], listed: list[_Variant]
        ) -> None:
            content = prices.content(after)
            if content not in seen:
                seen.add(content)
                listed.append(_variant(prices, taken, after, cost, amounts))

        # Two moves of any kind where there are few; of many (positions that differ, say) the chains
        # have to do.
        if len(variants) <= _FEW:
            for variant in variants:
                for move in _neighbours(space, positional, variant.after, place):
                    add((*variant.moves, move), move.apply(variant.after), seen, listed)
        if isinstance(place, int):
            resized = [variant for variant in variants if isinstance(variant.moves[0], Narrow)]
            starts = [((), arch), *((variant.moves, variant.after) for variant in resized)]
            for taken, start in starts:
                for chain in _chains(space, start, place):
                    after = start
                    for number, move in enumerate(chain, start=1):
                        after = move.apply(after)
                        add((*taken, *chain[:number]), after, seen, listed)
        found[place] = _unbeaten(listed, place)
    return found


def _chains(space: Space, arch: Architecture, index: int) -> Iterator[tuple[Move, ...]]:
    """Yield moves of one stage that can be taken in a row: drops from the border of local and
    global blocks outwards, and blocks of one kind put back towards it."""
    choice = space.stages[index]
    stage = arch.stages[index]
    roles = [choice.kind(block) for block in stage.blocks]
    places = list(enumerate(roles))
    most_drops = stage.depth - choice.depths[0]
    for role, order in (("local", reversed(places)), ("global", iter(places))):
        drops = tuple(Drop(index, position) for position, each in order if each == role)
        yield drops[:most_drops]
    first_global = roles.index("global") if "global" in roles else len(roles)
    last_local = max((position for position, role in places if role == "local"), default=-1)
    gaps = [position for position, role in places if role == "identity"]
    for block in space.candidates(index, "local", stage.width):
        yield tuple(Restore(index, gap, Identity(), block) for gap in gaps if gap < first_global)
    for block in space.candidates(index, "global", stage.width):
        yield tuple(
            Restore(index, gap, Identity(), block) for gap in reversed(gaps) if gap > last_local
        )


def _unbeaten(variants: Sequence[_Variant], place: int | str) -> list[_Variant]:
    """Return the variants that no other one beats which looks the same to the stages on both sides."""
    alike: dict[object, list[_Variant]] = {}
    for variant in variants:
        alike.setdefault((_output(variant.after, place), _input(variant.after, place)), []).append(
            variant
        )
    kept: list[_Variant] = []
    for some in alike.values():
        rows = np.array([(variant.cost, *variant.amounts) for variant in some]).T
        whole = np.round(rows / _ROUNDING).astype(np.int64)
        kept += [some[number] for number in undominated(whole).tolist()]
    return kept


def _variant(
    prices: Prices,
    taken: tuple[Move, ...],
    after: Architecture,
    cost: float,
    amounts: Sequence[float],
) -> _Variant:
    changes = tuple(new - old for new, old in zip(_amounts(prices, after), amounts, strict=True))
    return _Variant(taken, after, prices.cost(after) - cost, changes)


def _amounts(prices: Prices, arch: Architecture) -> tuple[float, ...]:
    return tuple(prices.amount(limit.measure, arch) for limit in prices.limits)


def _interplay(prices: Prices, arch: Architecture, variants: Variants) -> Interplay:
    """Return by how much variants of neighbouring stages together differ from their sum, in cost
    and every amount.

    Only the entry (or head) that comes next sees a stage: its width and its layout. So variants
    that agree in these share a figure.
    """
    base = np.array([prices.cost(arch), *_amounts(prices, arch)])
    found: Interplay = {}
    for left, right in pairwise(["stem", *range(len(arch.stages)), "head"]):
        if left not in variants or right not in variants:
            continue
        outputs, rows = _classes(_output(variant.after, left) for variant in variants[left])
        inputs, columns = _classes(_input(variant.after, right) for variant in variants[right])
        table = np.zeros((len(base), len(outputs), len(inputs)))
        for row, column in product(range(len(outputs)), range(len(inputs))):
            first = variants[left][outputs[row]]
            second = variants[right][inputs[column]]
            both = _joined(first, second, right)
            apart = np.array([first.cost + second.cost, *np.add(first.amounts, second.amounts)])
            table[:, row, column] = (
                np.array([prices.cost(both), *_amounts(prices, both)]) - base - apart
            )
        found[left, right] = table[:, rows][:, :, columns]
    return found


def _joined(first: _Variant, second: _Variant, place: int | str) -> Architecture:
    """Return where the moves of both variants lead, of which the second one changes `place`."""
    if place == "head":
        return first.after.with_head(second.after.head)
    if isinstance(place, int) and (place > 0 or first.after.stem is not None):
        # Sharing the stage saves `Prices` from hashing another one that is equal.
        return first.after.with_stage(place, second.after.stages[place])
    # Without a stem of its own the network is entered by the first stage's entry: both change it.
    both = first.after
    for move in second.moves:
        both = move.apply(both)
    return both


def _classes(looks: Iterable[object]) -> tuple[list[int], list[int]]:
    """Return the number of the first variant of each look, and for every variant which look it has."""
    numbers: dict[object, int] = {}
    firsts: list[int] = []
    of_each: list[int] = []
    for number, look in enumerate(looks):
        if look not in numbers:
            numbers[look] = len(firsts)
            firsts.append(number)
        of_each.append(numbers[look])
    return firsts, of_each


def _output(arch: Architecture, stage: int | str) -> object:
    """Return what the next stage sees of this one."""
    if isinstance(stage, str):
        return arch.stem
    blocks = arch.stages[stage].present
    return arch.stages[stage].width, blocks[-1].layout if blocks else ""


def _input(arch: Architecture, stage: int | str) -> object:
    """Return what a stage has that gets the output of the one before."""
    return arch.head if isinstance(stage, str) else arch.stages[stage].entry


def _best(
    space: Space,
    prices: Prices,
    arch: Architecture,
    variants: Variants,
    most_stages: int,
    interplay: Interplay | None = None,
) -> list[Move] | None:
    """Return the moves of the combination of variants that lowers the cost most within the limits,
    in a legal order."""
    cost = prices.cost(arch)
    slack = np.array([limit.most for limit in prices.limits]) - np.array(_amounts(prices, arch))
    loose = slack + _LOOSE * np.array([limit.most for limit in prices.limits])
    ranked: list[tuple[float, tuple[_Variant, ...]]] = []
    for count in range(1, most_stages + 1):
        for stages in combinations(variants, count):
            groups = [variants[stage] for stage in stages]
            if prod(map(len, groups)) <= _LARGEST:
                between = {
                    (stages.index(left), stages.index(right)): table
                    for (left, right), table in (interplay or {}).items()
                    if left in stages and right in stages
                }
                ranked += _combined(groups, loose, between)
    ranked.sort(key=lambda pair: pair[0])
    best: list[Move] | None = None
    least = cost - _GAIN
    for estimate, combination in ranked[:_TRIED]:
        if estimate > least - cost + _HOPE:
            break
        after = arch
        for variant in combination:
            for move in variant.moves:
                after = move.apply(after)
        if (
            prices.cost(after) >= least
            or prices.exceeded(after) is not None
            or not space.contains(after)
        ):
            continue
        ordered = _in_order(space, arch, combination)
        if ordered is not None:
            best = ordered
            least = prices.cost(after)
    return best


def _combined(
    groups: Sequence[Sequence[_Variant]], loose: Floats, between: Mapping[tuple[int, int], Floats]
) -> list[tuple[float, tuple[_Variant, ...]]]:
    """Return the best combinations of one variant per group by their summed differences, within the
    limits.

    `between` has what two groups (by their numbers) add to the sums.
    """
    shape = tuple(len(group) for group in groups)

    def total(row: int) -> Floats:
        """Sum up the differences in cost (row 0) or in an amount."""
        sums: Floats = np.zeros(shape)
        for axis, group in enumerate(groups):
            values = np.array([(variant.cost, *variant.amounts)[row] for variant in group])
            sums = sums + values.reshape([-1 if each == axis else 1 for each in range(len(shape))])
        for (left, right), table in between.items():
            sizes = [size if axis in (left, right) else 1 for axis, size in enumerate(shape)]
            # Groups stand in the order of the network, so that the left one is the earlier axis.
            sums = sums + table[row].reshape(sizes)
        return sums

    costs = total(0)
    holds: NDArray[np.bool_] = costs < _HOPE
    for row, room in enumerate(loose.tolist(), start=1):
        if np.isfinite(room):
            holds &= total(row) <= room
    flat = np.where(holds, costs, np.inf).ravel()
    first = np.argpartition(flat, min(_TRIED, len(flat)) - 1)[:_TRIED]
    places = [np.unravel_index(int(number), shape) for number in first if np.isfinite(flat[number])]
    return [
        (
            float(costs[place]),
            tuple(group[int(at)] for group, at in zip(groups, place, strict=True)),
        )
        for place in places
    ]


def _in_order(
    space: Space, arch: Architecture, combination: Sequence[_Variant]
) -> list[Move] | None:
    """Return the moves of a combination in an order in which each leads to a member, reductions
    first if possible."""
    saving_first = sorted(combination, key=lambda variant: variant.amounts[0])
    for order in permutations(saving_first):
        taken = [move for variant in order for move in variant.moves]
        at = arch
        for move in taken:
            at = move.apply(at)
            if not space.contains(at):
                break
        else:
            return taken
    return None
