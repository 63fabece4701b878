"""The second half of slimming: a local search that trades moves for one another.

The descent of `nas.search.engines.slimming` takes one move at a time and never looks back. It ends
with room below the target, and with early moves that it would not take again. Here a reduction is
undone where another one makes up for it, as long as the limits hold and the cost falls.

The variants of a stage are the members that one or two moves of that stage lead to. Costs and
amounts of variants of different stages nearly add up, since only an entry sees two stages. So sums
of differences rank all pairs and triples of variants at once, and only the best are priced exactly.
"""

from __future__ import annotations

import math
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
"""Minimum gain of a trade, in points."""
_TRIED = 200
"""Maximum number of combinations that are priced exactly, the best by their sums."""
_LOOSE = 0.02
"""Share of a limit by which a sum of differences may exceed it, since the sum is an estimate."""
_HOPE = 0.05
"""Points by which an exact price may be better than its sum of differences."""
_LARGEST = 4_000_000
"""Maximum number of combinations of one set of stages; larger sets are skipped."""
_FEW = 60
"""Maximum number of a stage's moves up to which all pairs of them are tried."""
_ROUNDING = 1e-9
"""Unit to which points, ms and other amounts are rounded before they are compared."""
_ROUNDS = 200
"""Maximum number of trades."""
Interplay = dict[tuple[int | str, int | str], Floats]
"""For two neighbouring stages (1 + limits, left variants, right variants): how far their joint
differences are from the sums."""


@dataclass(frozen=True)
class _Variant:
    """A member that moves of one stage lead to, by its differences from the member at hand.

    Attributes:
        moves: that lead there, in order.
        after: the member.
        cost: difference in cost, in points.
        amounts: difference in every limited amount, in the order of `Prices.limits`.
    """

    moves: tuple[Move, ...]
    after: Architecture
    cost: float
    amounts: tuple[float, ...]


Variants = dict[int | str, list[_Variant]]
"""Variants by the stage (from 0) that they change, or "stem" or "head", in network order."""


def trades(
    space: Space,
    prices: Prices,
    positional: bool,
    arch: Architecture,
    least_cost: float = -math.inf,
) -> Iterator[tuple[Move, Architecture]]:
    """Yield the moves that improve a member which keeps the limits, each with the member after it.

    A trade is one or more moves. After each trade the limits hold and the cost is lower; between
    the moves of a trade a limit may be exceeded. No trade is looked for once the cost is
    `least_cost`, the proven least of all members within the limits.
    """
    for _ in range(_ROUNDS):
        if prices.cost(arch) < least_cost + _GAIN:
            return
        chosen = _trade(space, prices, positional, arch)
        if chosen is None:
            return
        for move in chosen:
            arch = move.apply(arch)
            yield move, arch


def _trade(space: Space, prices: Prices, positional: bool, arch: Architecture) -> list[Move] | None:
    """Return the moves of the next trade; None where no trade lowers the cost."""
    # Three neighbourhoods, each larger and slower than the one before, which is tried first.
    variants = _variants(space, prices, positional, arch)
    chosen = _best(space, prices, arch, variants, 3)
    if chosen is None:
        # Up to four stages at once, such as all widths together. To change one width costs in the
        # entries on both sides; the interplay counts what neighbours save there together.
        chosen = _best(space, prices, arch, variants, 4, _interplay(prices, arch, variants))
    if chosen is None:
        # Variants of more than one move per stage.
        deeper = _deeper(space, prices, positional, arch, variants)
        chosen = _best(space, prices, arch, deeper, 4, _interplay(prices, arch, deeper))
    return chosen


def distinct(space: Space, arch: Architecture, every: Sequence[Move]) -> list[Move]:
    """Return the moves without those that lead to the same network by way of another position.

    It is for costs that belong to no position. Of equal moves, the one is kept that leaves local
    blocks at the first positions of their stage and global ones at the last, as `Space.place` does.
    """
    kept: dict[object, Move] = {}
    for move in every:
        key, first = _key(space, arch, move)
        if not (first and key in kept):
            kept[key] = move
    return list(kept.values())


def _key(space: Space, arch: Architecture, move: Move) -> tuple[object, bool]:
    """Return a key that equal moves share, and whether the first of them is kept or the last."""
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
    """Return every move from a member, narrowing to all smaller widths, and every undoing move.

    With `place`, only the moves of that stage (from 0), of the stem or of the head.
    """
    # `moves` narrows a stage by one width only; a trade may need to skip some.
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
    """Return the stage (from 0) that a move changes, or "stem" or "head"."""
    if not isinstance(move, Exchange):
        return move.stage
    return move.place.part if move.place.stage is None else move.place.stage


def _variants(space: Space, prices: Prices, positional: bool, arch: Architecture) -> Variants:
    """Return the variants of single moves, by the stage that they change."""
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
    """Return the variants of several moves of one stage.

    These are two moves of any kind, and another width followed by drops or restored blocks. Each
    network is listed once. A variant is left out where another one beats it that looks the same to
    the neighbouring stages.
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

        # All pairs are tried only where a stage has few moves. Where it has many, as with costs that
        # depend on positions, only the chains below are tried.
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
    """Yield sequences of moves of one stage, every beginning of which is a variant.

    Drops go from the border between local and global blocks outwards. Restored blocks are all of
    one kind and go from the ends towards the border.
    """
    choice = space.stages[index]
    if choice.fixed is not None:
        return
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
    """Return the variants that no other one beats in cost and amounts.

    Only variants that look the same to the stages on both sides are compared, because what the
    others add depends on that.
    """
    alike: dict[object, list[_Variant]] = {}
    for variant in variants:
        alike.setdefault((_output(variant.after, place), _input(variant.after, place)), []).append(
            variant
        )
    kept: list[_Variant] = []
    for some in alike.values():
        # (1 + limits, variants), in whole units as `undominated` expects.
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
    """Return how far the joint differences of neighbouring stages are from the sum of both.

    A stage is seen only by the next entry (or the head), which sees its width and layout. So one
    pair is priced per combination of these looks, and all variants of the same looks share it.
    """
    base = np.array([prices.cost(arch), *_amounts(prices, arch)])
    found: Interplay = {}
    for left, right in pairwise(["stem", *range(len(arch.stages)), "head"]):
        if left not in variants or right not in variants:
            continue
        # One variant per look on either side; `rows` and `columns` map every variant to its look.
        outputs, rows = _classes(_output(variant.after, left) for variant in variants[left])
        inputs, columns = _classes(_input(variant.after, right) for variant in variants[right])
        table = np.zeros((len(base), len(outputs), len(inputs)))  # (1 + limits, looks, looks)
        for row, column in product(range(len(outputs)), range(len(inputs))):
            first = variants[left][outputs[row]]
            second = variants[right][inputs[column]]
            both = _joined(first, second, right)
            apart = np.array([first.cost + second.cost, *np.add(first.amounts, second.amounts)])
            table[:, row, column] = (
                np.array([prices.cost(both), *_amounts(prices, both)]) - base - apart
            )
        found[left, right] = table[:, rows][:, :, columns]  # (1 + limits, variants, variants)
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
    """Return the first variant of each look, and the number of every variant's look."""
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
    """Return what the next stage sees of this one: its width and layout, or the stem."""
    if isinstance(stage, str):
        return arch.stem
    blocks = arch.stages[stage].present
    return arch.stages[stage].width, blocks[-1].layout if blocks else ""


def _input(arch: Architecture, stage: int | str) -> object:
    """Return the block that gets the output of the stage before: an entry or the head."""
    return arch.head if isinstance(stage, str) else arch.stages[stage].entry


def _best(
    space: Space,
    prices: Prices,
    arch: Architecture,
    variants: Variants,
    most_stages: int,
    interplay: Interplay | None = None,
) -> list[Move] | None:
    """Return the moves of the combination of variants that lowers the cost most within the limits.

    Args:
        space: of the members.
        prices: of the members.
        arch: the member at hand, which keeps the limits.
        variants: of `arch`, by stage.
        most_stages: maximum number of stages that one combination changes.
        interplay: what neighbouring stages add to the sums; nothing where None.

    Returns:
        The moves in a legal order, or None where no combination gains `_GAIN`.
    """
    cost = prices.cost(arch)
    slack = np.array([limit.most for limit in prices.limits]) - np.array(_amounts(prices, arch))
    loose = slack + _LOOSE * np.array([limit.most for limit in prices.limits])
    # Estimates first: sums of differences, for every set of stages at once.
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
    # Then exact prices, best estimate first, until an estimate is worse than the best exact price
    # by more than an estimate is trusted to be off.
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
    """Return the best combinations of one variant per group, with their summed differences in cost.

    Args:
        groups: the variants of one stage each.
        loose: (limits,), how much each amount may grow; infinite where it is not limited.
        between: what two groups, by their numbers, add to the sums.
    """
    # All combinations are the cells of one array with an axis per group.
    shape = tuple(len(group) for group in groups)

    def total(row: int) -> Floats:
        """Sum up the differences in cost (row 0) or in an amount."""
        sums: Floats = np.zeros(shape)
        for axis, group in enumerate(groups):
            values = np.array([(variant.cost, *variant.amounts)[row] for variant in group])
            # (1, .., variants, .., 1): broadcasting adds each group along its own axis.
            sums = sums + values.reshape([-1 if each == axis else 1 for each in range(len(shape))])
        for (left, right), table in between.items():
            sizes = [size if axis in (left, right) else 1 for axis, size in enumerate(shape)]
            # Groups are in network order, so the left one of a pair is always the earlier axis.
            sums = sums + table[row].reshape(sizes)
        return sums

    costs = total(0)
    holds: NDArray[np.bool_] = costs < _HOPE
    for row, room in enumerate(loose.tolist(), start=1):
        if np.isfinite(room):
            holds &= total(row) <= room
    # The cheapest cells in linear time, unsorted; `_best` sorts those of all sets together.
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
    """Return the moves of a combination in an order in which each leads to a member of the space.

    Orders that begin with the largest saving are tried first. None where no order is legal.
    """
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
