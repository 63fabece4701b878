"""The candidates of a stage, and how one of them is picked for a place.

`nas.space.space` makes spaces of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, Protocol, TypeVar

from nas.blocks import BlockSpec, EntrySpec, Identity, Shape
from nas.space.architecture import Stage
from nas.space.place import Place

Placement = Literal["stage_suffix", "network_suffix"]
"""Where global blocks may stand: the last positions of each stage, or the last positions of the
whole network."""
Role = Literal["local", "global"]
ROLES: tuple[Role, ...] = ("local", "global")
Blocks = tuple[BlockSpec, ...]
Spec = TypeVar("Spec", bound=BlockSpec)


class Pick(Protocol):
    """A function that chooses one of the candidates of a place, given their input shape."""

    def __call__(self, place: Place, candidates: tuple[Spec, ...], shape: Shape, /) -> Spec: ...


@dataclass(frozen=True)
class StageSpace:
    """The choices of one stage.

    Attributes:
        entries: the candidates for the block that enters the stage, at the largest width.
        widths: the widths to choose from, ascending.
        depths: minimum and maximum number of blocks.
        local: the local candidates of every position.
        global_: the global (attention) candidates of every position; empty where blocks must be
            local.
        fixed: where the stage is frozen (`nas.space.freezing`), the only choice that is left, with a
            block or identity at every position.
    """

    entries: tuple[EntrySpec, ...]
    widths: tuple[int, ...]
    depths: tuple[int, int]
    local: Blocks
    global_: Blocks = ()
    fixed: Stage | None = None

    @property
    def possible_depths(self) -> range:
        """Return the numbers of blocks that the stage may have."""
        least, most = (self.fixed.depth, self.fixed.depth) if self.fixed else self.depths
        return range(least, most + 1)

    @property
    def fixed_global(self) -> int:
        """Return the number of global blocks of a frozen stage; 0 for others."""
        blocks = self.fixed.blocks if self.fixed else ()
        return sum(self.kind(block) == "global" for block in blocks)

    def candidates(self, role: Role) -> Blocks:
        return self.local if role == "local" else self.global_

    def kind(self, block: BlockSpec) -> Role | Literal["identity"]:
        """Return the role of a block of the stage.

        Raises:
            ValueError: `block` is not a candidate of the stage.
        """
        if isinstance(block, Identity):
            return "identity"
        role = self._roles.get(block)
        if role is not None:
            return role
        raise ValueError(
            f"{block.kind}({block}) is not a candidate here (expected one of"
            f" {block_names(self.local + self.global_)})"
        )

    @cached_property
    def _roles(self) -> dict[BlockSpec, Role]:
        # A block that is a candidate of both roles is local.
        return {block: role for role in reversed(ROLES) for block in self.candidates(role)}

    def beyond(self, other: StageSpace) -> tuple[str, ...]:
        """Return the names of the attributes with a choice that `other` lacks."""
        widest = other.widths[-1]
        entries = {widened(entry, widest) for entry in self.entries}
        checks = {
            "widths": set(self.widths) <= set(other.widths),
            "depths": other.depths[0] <= self.depths[0] and self.depths[1] <= other.depths[1],
            "entries": entries <= {widened(entry, widest) for entry in other.entries},
            "local": set(self.local) <= set(other.local),
            "global_": set(self.global_) <= set(other.global_),
        }
        return tuple(name for name, within in checks.items() if not within)

    def to_dict(self) -> dict[str, Any]:
        """Return the stage as in the space's YAML file."""
        entries = [entry.to_dict() for entry in self.entries]
        return {
            "entry": [
                {key: value for key, value in entry.items() if key != "width"} for entry in entries
            ],
            "width": list(self.widths),
            "depth": {"min": self.depths[0], "max": self.depths[1]},
            "local": [block.to_dict() for block in self.local],
            **({"global": [block.to_dict() for block in self.global_]} if self.global_ else {}),
            # No space file has this key: a frozen space is made for one search.
            **({"fixed": [block.to_dict() for block in self.fixed.blocks]} if self.fixed else {}),
        }


def first_listed(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
    """Return the candidate that the space names first."""
    return candidates[0]


def most_macs(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
    """Return the candidate with the most multiply-accumulates; of equal ones the first."""
    # A stream's shape is given as a map. A block on tokens counts the same positions as tokens.
    return max(candidates, key=lambda block: block.macs(replace(shape, layout=block.layout)))


def fewest_macs(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
    return min(candidates, key=lambda block: block.macs(replace(shape, layout=block.layout)))


def in_turn(numbers: Sequence[int]) -> Pick:
    """Return a pick that takes the candidate with the next of these numbers at each place."""
    rest = iter(numbers)

    def pick(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
        return candidates[next(rest)]

    return pick


def likeness(block: BlockSpec, other: BlockSpec) -> tuple[bool, int]:
    """Return whether two blocks have one kind, and how many of their hyperparameters are equal."""
    values = other.hyperparameters()
    return block.kind == other.kind, sum(
        values.get(name) == value for name, value in block.hyperparameters().items()
    )


# A space of many candidates is read by building over a hundred members of the same few entries.
@lru_cache(maxsize=4096)
def widened(entry: EntrySpec, width: int) -> EntrySpec:
    return replace(entry, width=width)


def block_names(blocks: Sequence[BlockSpec]) -> str:
    return ", ".join(f"{block.kind}({block})" for block in blocks)


def range_text(values: Sequence[int]) -> str:
    """Return the smallest and the largest of ascending values as text: 2, or 2..6."""
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}..{values[-1]}"


def choices_text(widths: Sequence[int]) -> str:
    """Return ascending widths as text; of many, the first two and the last."""
    if len(widths) < 8:
        return ", ".join(map(str, widths))
    return f"{widths[0]}, {widths[1]} .. {widths[-1]}"
