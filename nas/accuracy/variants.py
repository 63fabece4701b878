"""The members that tell what each single move costs: what a supernet is scored on, and what each
score is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nas.accuracy.recorded import choice_text
from nas.space import Architecture, Space
from nas.space.moves import Drop, Exchange, Localise, exchanges, moves, narrow
from nas.space.place import Place

Key = tuple[str, str, str]
LARGEST: Key = ("none", "", "")


@dataclass(frozen=True)
class Variant:
    """An architecture to evaluate, the row it is for, and the row that it is compared with."""

    key: Key
    arch: Architecture
    base: Key = LARGEST


def variants(space: Space, widths: int | None = None) -> list[Variant]:
    """Return members that are one move away from the largest each, but for those that make blocks
    local.

    Global blocks may only become local from the first on, so those variants follow one another:
    each has one more local block than the one before, and each exchange of a local block starts
    from the variant that has it. Of a stage's widths at most `widths` are taken, evenly spread, the
    ends included; all by default.
    """
    largest = space.largest()
    found = [Variant(LARGEST, largest)]
    for index, stage in enumerate(space.stages):
        if stage.depths[0] < stage.depths[1]:
            for position in range(stage.depths[1]):
                place = Place.block(index, position)
                found.append(
                    Variant(("drop", str(place), ""), Drop(index, position).apply(largest))
                )
        count = min(widths or len(stage.widths), len(stage.widths))
        chosen = np.unique(np.linspace(0, len(stage.widths) - 1, count).round().astype(int))
        for width in (stage.widths[i] for i in reversed(chosen) if i < len(stage.widths) - 1):
            key = ("narrow", str(Place.whole(index)), str(width))
            found.append(Variant(key, narrow(space, largest, index, width).apply(largest)))
    found += [_exchanged(move, largest, LARGEST) for move in exchanges(space, largest)]
    return found + list(_localised(space))


def _localised(space: Space) -> Iterator[Variant]:
    """Yield from the largest member, stage after stage; where the space's rule asks for it, all
    stages before first."""
    arch = space.largest()
    base = LARGEST
    for index in range(len(space.stages)):
        if space.placement == "stage_suffix":
            arch = space.largest()
            base = LARGEST
        while legal := [
            m for m in moves(space, arch) if isinstance(m, Localise) and m.stage == index
        ]:
            arch = legal[0].apply(arch)
            place = Place.block(index, legal[0].position)
            yield Variant(("localise", str(place), ""), arch, base)
            base = ("localise", str(place), "")
            yield from (
                _exchanged(move, arch, base)
                for move in exchanges(space, arch)
                if move.place == place
            )


def _exchanged(move: Exchange, arch: Architecture, base: Key) -> Variant:
    return Variant(("exchange", str(move.place), choice_text(move.block)), move.apply(arch), base)
