"""Checks that a space's blocks fit its input size, before anything is built.

The reader of space files and `Space.at` call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from nas.blocks import BlockSpec, Shape
from nas.space.architecture import Misfit
from nas.space.place import Place

if TYPE_CHECKING:
    from nas.space.candidates import Blocks, Pick, Role
    from nas.space.space import Space

Keys = list[str | int]
Spec = TypeVar("Spec", bound=BlockSpec)


def misfit(block: BlockSpec, shape: Shape) -> str:
    """Return why a block does not take a map of this shape; "" where it does."""
    try:
        block.check(replace(shape, layout=block.layout))
    except ValueError as error:
        return str(error)
    return ""


def refusal(space: Space) -> tuple[Keys, str] | None:
    """Return the first choice of a space that fits nothing, as (key in its YAML file, reason).

    That is a block that fits no width of its stage, or a width that no block fits. Return None
    where every choice can be used.
    """
    for index, stage in enumerate(space.stages):
        roles: tuple[tuple[Role, Blocks], ...] = (("local", stage.local), ("global", stage.global_))
        # Blocks of a stage by themselves: each width needs a block, and each block needs a width.
        for role, blocks in roles:
            for width in stage.widths if blocks else ():
                if not space.candidates(index, role, width):
                    reason = _why(blocks, space.shape(index, width))
                    return ["stages", index, role], f"stage {index + 1}, width {width}: {reason}"
            for block in blocks:
                if not any(block in space.candidates(index, role, width) for width in stage.widths):
                    reason = _why([block], space.shape(index, stage.widths[-1]))
                    return ["stages", index, role], f"stage {index + 1}: fits no width; {reason}"
    # Then whole members, as a stem, an entry or a head may not fit what comes before it. Turn n
    # takes the n-th candidate at every place, so that each candidate is built once, on maps (no
    # attention) and, where the space has it, after attention on tokens.
    for attention in space.attention_extremes():
        for turn in range(max(len(c) for c in _every_choice(space))):
            arch = space.member(
                [stage.widths[-1] for stage in space.stages],
                [stage.depths[1] for stage in space.stages],
                attention,
                pick=_nth(turn),
            )
            try:
                arch.operations()
            except Misfit as error:
                keys: Keys = (
                    ["head"] if error.place.part == "head" else ["stages", error.place.stage or 0]
                )
                return keys, str(error)
    return None


def _nth(turn: int) -> Pick:
    """Return a pick that takes the candidate of this number, modulo their count, at every place."""

    def pick(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
        return candidates[turn % len(candidates)]

    return pick


def _why(blocks: Sequence[BlockSpec], shape: Shape) -> str:
    return "; ".join(
        f"{block.kind}({block}) does not fit {shape}: {misfit(block, shape)}" for block in blocks
    )


def _every_choice(space: Space) -> Iterator[Blocks]:
    """Yield the candidates of every place of a space."""
    yield space.heads
    for stage in space.stages:
        yield from (stage.entries, stage.local, stage.global_)
