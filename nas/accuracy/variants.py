"""The members on which a supernet is scored, about one per move.

`nas train` and `nas score` evaluate them; each gives one row of the recorded scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nas.accuracy.recorded import choice_text
from nas.space import Architecture, Space
from nas.space.moves import Drop, Exchange, Localise, exchanges, moves, narrow
from nas.space.place import Place

Key = tuple[str, str, str]
"""Move, place and choice of a row of recorded scores."""
LARGEST: Key = ("none", "", "")
"""Key of the largest member, which no move changed."""


@dataclass(frozen=True)
class Variant:
    """An architecture to evaluate.

    Attributes:
        key: of the row that it is for.
        arch: the architecture.
        base: key of the variant that it is compared with.
    """

    key: Key
    arch: Architecture
    base: Key = LARGEST


def variants(space: Space, widths: int | None = None) -> list[Variant]:
    """Return the largest member, and members that are one move away from it or from another variant.

    Global blocks may become local only from the first one on. So each of these variants has one
    more local block than the one before, which it is compared with. An exchange of such a local
    block starts from the variant that has it.

    Args:
        space: of the supernet.
        widths: maximum number of a stage's widths, evenly spaced with both ends; None for all.
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
        # The largest width costs 0 by definition and has no variant.
        count = min(widths or len(stage.widths), len(stage.widths))
        chosen = np.unique(np.linspace(0, len(stage.widths) - 1, count).round().astype(int))
        for width in (stage.widths[i] for i in reversed(chosen) if i < len(stage.widths) - 1):
            key = ("narrow", str(Place.whole(index)), str(width))
            found.append(Variant(key, narrow(space, largest, index, width).apply(largest)))
    found += [_exchanged(move, largest, LARGEST) for move in exchanges(space, largest)]
    return found + list(_localised(space))


def _localised(space: Space) -> Iterator[Variant]:
    """Yield the variants with local blocks in place of global ones, stage by stage.

    Where global blocks may only end a stage, each stage starts from the largest member. Where they
    may only end the network, the blocks of all earlier stages are local already.
    """
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
