"""The candidates of a stage, and how one of them is picked for a place.

`nas.space.space` makes spaces of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from nas.blocks import BlockSpec, EntrySpec, Identity, Shape
from nas.space.place import Place

Placement = Literal["stage_suffix", "network_suffix"]
"""Where global blocks may stand: the last positions of each stage, or the last positions of the
whole network."""
Role = Literal["local", "global"]
ROLES: tuple[Role, ...] = ("local", "global")
Blocks = tuple[BlockSpec, ...]
Spec = TypeVar("Spec", bound=BlockSpec)


class Pick(Protocol):
    """Chooses among the candidates of a place (named as its operation), which get an input of this
    shape."""

    def __call__(self, place: Place, candidates: tuple[Spec, ...], shape: Shape, /) -> Spec: ...


@dataclass(frozen=True)
class StageSpace:
    """What one stage may be.

    Attributes:
        entries: the candidates for the block that enters the stage, at the largest width.
        widths: the widths to choose from, ascending.
        depths: least and most blocks.
        local: the local candidates of every position.
        global_: its global (attention) candidates; none where only local blocks may stand.
    """

    entries: tuple[EntrySpec, ...]
    widths: tuple[int, ...]
    depths: tuple[int, int]
    local: Blocks
    global_: Blocks = ()

    def candidates(self, role: Role) -> Blocks:
        return self.local if role == "local" else self.global_

    def kind(self, block: BlockSpec) -> Role | Literal["identity"]:
        """Return which of the stage's choices `block` is. Raises ValueError when it is none."""
        if isinstance(block, Identity):
            return "identity"
        if block in self.local:
            return "local"
        if block in self.global_:
            return "global"
        raise ValueError(
            f"{block.kind}({block}) is no candidate here; there are"
            f" {block_names(self.local + self.global_)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As in the space's YAML file."""
        entries = [entry.to_dict() for entry in self.entries]
        return {
            "entry": [
                {key: value for key, value in entry.items() if key != "width"} for entry in entries
            ],
            "width": list(self.widths),
            "depth": {"min": self.depths[0], "max": self.depths[1]},
            "local": [block.to_dict() for block in self.local],
            **({"global": [block.to_dict() for block in self.global_]} if self.global_ else {}),
        }


def first_listed(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
    """Return the candidate that the space names first."""
    return candidates[0]


def most_macs(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
    """Return the candidate with the most multiply-accumulates; of equal ones the one named first."""
    return max(candidates, key=lambda block: block.macs(replace(shape, layout=block.layout)))


def fewest_macs(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
    return min(candidates, key=lambda block: block.macs(replace(shape, layout=block.layout)))


def in_turn(numbers: Sequence[int]) -> Pick:
    """Return a pick that takes the candidates with these numbers, one place after the other."""
    rest = iter(numbers)

    def pick(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
        return candidates[next(rest)]

    return pick


def likeness(block: BlockSpec, other: BlockSpec) -> tuple[bool, int]:
    """Return how much two blocks have in common: the kind, then the number of equal
    hyperparameters."""
    values = other.hyperparameters()
    return block.kind == other.kind, sum(
        values.get(name) == value for name, value in block.hyperparameters().items()
    )


def widened(entry: EntrySpec, width: int) -> EntrySpec:
    return replace(entry, width=width)


def block_names(blocks: Sequence[BlockSpec]) -> str:
    return " and ".join(f"{block.kind}({block})" for block in blocks)
