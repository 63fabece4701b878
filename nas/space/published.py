"""Published members in a space's YAML file: what is written of them, and how it is read.

`nas.space.schema` reads the rest of the file first, as members are picked from its candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, WithJsonSchema

from nas.blocks import BlockSpec, Shape, head_from
from nas.errors import nearest
from nas.files import YamlFile
from nas.space.architecture import Architecture
from nas.space.candidates import Spec
from nas.space.place import Place
from nas.space.space import Space

Keys = list[str | int]
PLACE = "x-nas-place"
"""Key in the JSON Schema of these models: the kind of place whose blocks a value takes.

`nas.space.json_schema` replaces it."""
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
"""Settings of all models of the file: unknown keys and converted types ("4" for 4) are errors."""


class Published(BaseModel):
    """A published member: its numbers per stage, and what distinguishes its blocks.

    Where a place has several candidates, these values select the member's. `stem` and `head` give
    hyperparameters (or the kind). `entry` gives one value for all stages or a list with one value
    per stage. `block` also takes a list of lists, one value per block.
    """

    model_config = STRICT

    widths: list[PositiveInt]
    depths: list[Annotated[int, Field(ge=0)]]
    attention: list[Annotated[int, Field(ge=0)]]
    stem: dict[str, Any] = {}
    entry: dict[str, Any] = {}
    block: dict[str, Any] = {}
    head: dict[str, Any] = {}


class Dense(BaseModel):
    """A published network of dense prediction.

    Attributes:
        member: the published member whose stem and stages it has.
        resolution: height and width that it was published at.
        head: its head, which need not be a candidate of the space.
    """

    model_config = STRICT

    member: str
    resolution: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    head: Annotated[dict[str, Any], WithJsonSchema({PLACE: "head"})]


def published_member(file: YamlFile, space: Space, keys: Keys, entry: Published) -> Architecture:
    """Return a published member; each of its choices is checked against the space.

    Raises:
        InputError: naming file, line, key and reason.
    """
    if not len(entry.widths) == len(entry.depths) == len(entry.attention) == len(space.stages):
        raise file.error(
            keys, f"widths, depths and attention need {len(space.stages)} values, one per stage"
        )
    for index, (stage, depth, count) in enumerate(
        zip(space.stages, entry.depths, entry.attention, strict=True)
    ):
        if count > (depth if stage.global_ else 0):
            room = (
                f"the stage has {depth} blocks"
                if stage.global_
                else "the stage has no global block"
            )
            raise file.error(
                [*keys, "attention", index], f"{count} blocks of attention are too many: {room}"
            )

    def pick(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
        stated = _wanted(file, keys, entry, place)
        chosen = next((block for block in candidates if _agrees(block, stated)), None)
        if chosen is None:
            values = ", ".join(f"{name} {value}" for name, value in stated.items())
            reason = f"has {values}" if values else "fits the width"
            raise file.error(keys, f"{place}: none of its candidates {reason}")
        return chosen

    member = space.member(entry.widths, entry.depths, entry.attention, keys[-1], pick)  # type: ignore[arg-type]
    file.parse(space.validate, keys, member)
    return member


def dense_network(
    file: YamlFile, members: Mapping[str, Architecture], keys: Keys, entry: Dense
) -> Architecture:
    """Return a published network of dense prediction: a member with its own head and size.

    Raises:
        InputError: naming file, line, key and reason.
    """
    if entry.member not in members:
        raise file.error(
            [*keys, "member"],
            f"'{entry.member}' is not a published member of this space{nearest(entry.member, members)}",
        )
    head = file.parse(head_from, [*keys, "head"], entry.head)
    height, width = entry.resolution

    def sized(member: Architecture) -> Architecture:
        arch = replace(member.with_head(head), name=str(keys[-1])).at((height, width))
        arch.operations()
        return arch

    arch: Architecture = file.parse(sized, keys, members[entry.member])
    return arch


def _wanted(file: YamlFile, keys: Keys, entry: Published, place: Place) -> dict[str, Any]:
    """Return the hyperparameters that a published member states for a place."""
    if place.part == "head" or (place.part == "stem" and entry.stem):
        return entry.head if place.part == "head" else entry.stem
    part = "entry" if place.position is None else "block"
    stated = {}
    for name, values in getattr(entry, part).items():
        value = values
        # Descend a list per stage, then a list per block; a value that is not a list holds for all.
        # Where a space has no stem, the block that enters stage 1 is at the place "stem", which
        # has no stage.
        for at in (place.stage or 0, place.position):
            if isinstance(value, list) and at is not None:
                if at >= len(value):
                    raise file.error([*keys, part, name], f"no value for {place}")
                value = value[at]
        if value is not None:
            stated[name] = value
    return stated


def _agrees(block: BlockSpec, stated: Mapping[str, Any]) -> bool:
    """Return whether a block has these values.

    Hyperparameters that its kind does not have are ignored.
    """
    values = block.to_dict()
    return all(values[name] == value for name, value in stated.items() if name in values)
