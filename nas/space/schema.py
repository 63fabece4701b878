"""The format of a space's YAML file, and reading one with every mistake reported by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from nas.blocks import BlockSpec, Identity, Shape, entry_from, from_dict, head_from
from nas.files import YamlFile
from nas.space.architecture import Architecture, check_resolution
from nas.space.candidates import Placement, Spec, StageSpace
from nas.space.fit import refusal
from nas.space.place import Place
from nas.space.space import Space
from nas.validation import mistake_in

Keys = list[str | int]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Range(_Model):
    min: PositiveInt
    max: PositiveInt
    step: PositiveInt = 1

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if (self.max - self.min) % self.step:
            raise ValueError(
                f"max {self.max} is not min {self.min} plus a multiple of step {self.step}"
            )
        return self

    def values(self) -> tuple[int, ...]:
        return tuple(range(self.min, self.max + 1, self.step))


_RANGE = "<range>"
_LIST = "<list>"
_ONE = "<one>"


def _form(value: Any) -> str | None:
    return _RANGE if isinstance(value, dict) else _LIST if isinstance(value, list) else None


def _number(value: Any) -> str | None:
    return _ONE if isinstance(value, dict) else _LIST if isinstance(value, list) else None


_Widths = Annotated[
    Annotated[_Range, Tag(_RANGE)] | Annotated[list[PositiveInt], Field(min_length=1), Tag(_LIST)],
    Discriminator(
        _form, custom_error_type="width", custom_error_message="expected {min, max, step} or a list"
    ),
]
_Candidates = Annotated[
    Annotated[dict[str, Any], Tag(_ONE)]
    | Annotated[list[dict[str, Any]], Field(min_length=1), Tag(_LIST)],
    Discriminator(
        _number,
        custom_error_type="block",
        custom_error_message="expected a block, or a list of blocks",
    ),
]


class _Stage(_Model):
    entry: _Candidates
    width: _Widths
    depth: _Range
    local: _Candidates
    global_: _Candidates | None = Field(default=None, alias="global")

    def widths(self) -> tuple[int, ...]:
        return (
            self.width.values()
            if isinstance(self.width, _Range)
            else tuple(sorted(set(self.width)))
        )


class _Published(_Model):
    """A member: its numbers a stage, and where a place has several candidates, what tells the
    member's from the others.

    `stem` and `head` give hyperparameters (or the kind), `entry` gives them all stages alike or in
    a list a stage, and `block` also in a list of lists, a value a block.
    """

    widths: list[PositiveInt]
    depths: list[PositiveInt]
    attention: list[Annotated[int, Field(ge=0)]]
    stem: dict[str, Any] = {}
    entry: dict[str, Any] = {}
    block: dict[str, Any] = {}
    head: dict[str, Any] = {}


class _SpaceFile(_Model):
    format: Literal["nas-space-1"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    paper: str = ""
    resolution: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    attention: Placement = "stage_suffix"
    scores: str | None = None
    recipe: str | dict[str, str] = {}
    stem: _Candidates | None = None
    stages: Annotated[list[_Stage], Field(min_length=4, max_length=4)]
    head: _Candidates
    published: dict[str, _Published] = {}


def read_space(path: str | Path) -> Space:
    """Read and validates a space's YAML file.

    Raises:
        InputError: naming file, line, key and reason.
    """
    file = YamlFile(path)
    return space_from(file, file.data, [], str(path))


def space_from(file: YamlFile, data: Any, keys: Keys, path: str = "") -> Space:
    """Return the space that a mapping in a YAML file describes; it stands there under `keys`."""
    if isinstance(data, dict) and str(data.get("format", "")).startswith("nas-architecture"):
        raise file.error(
            [*keys, "format"],
            "is an architecture, expected a space. Fix: nas predict takes architectures",
        )
    try:
        checked = _SpaceFile.model_validate(data)
    except ValidationError as error:
        raise mistake_in(file, error, keys, hidden=(_RANGE, _LIST, _ONE)) from None
    file.parse(check_resolution, [*keys, "resolution"], checked.resolution)
    space = Space(
        name=checked.name,
        paper=checked.paper,
        resolution=(checked.resolution[0], checked.resolution[1]),
        placement=checked.attention,
        stages=tuple(
            _stage(file, [*keys, "stages", index], stage)
            for index, stage in enumerate(checked.stages)
        ),
        heads=_blocks(file, [*keys, "head"], checked.head, head_from),
        stems=_blocks(file, [*keys, "stem"], checked.stem, entry_from) if checked.stem else (),
        default_scores=checked.scores,
        recipes={"": checked.recipe} if isinstance(checked.recipe, str) else dict(checked.recipe),
        path=path,
    )
    found = refusal(space)
    if found:
        raise file.error([*keys, *found[0]], found[1])
    members = {
        name: _member(file, space, [*keys, "published", name], entry)
        for name, entry in checked.published.items()
    }
    return space.with_published(members)


def _stage(file: YamlFile, keys: Keys, stage: _Stage) -> StageSpace:
    widths = stage.widths()
    entries = _blocks(file, [*keys, "entry"], _with(stage.entry, width=widths[-1]), entry_from)
    for width in widths[:-1]:
        _blocks(file, [*keys, "width"], _with(stage.entry, width=width), entry_from)
    return StageSpace(
        entries=entries,
        widths=widths,
        depths=(stage.depth.min, stage.depth.max),
        local=_blocks(file, [*keys, "local"], stage.local, from_dict),
        global_=_blocks(file, [*keys, "global"], stage.global_, from_dict) if stage.global_ else (),
    )


def _with(
    data: dict[str, Any] | list[dict[str, Any]], **values: Any
) -> dict[str, Any] | list[dict[str, Any]]:
    return [{**each, **values} for each in data] if isinstance(data, list) else {**data, **values}


def _blocks(
    file: YamlFile,
    keys: Keys,
    data: dict[str, Any] | list[dict[str, Any]],
    parse: Callable[[Any], Spec],
) -> tuple[Spec, ...]:
    """Return the candidates of a place, each made by `parse`; a hyperparameter with a list of
    values stands for each value."""
    found: list[Spec] = []
    for index, each in enumerate(data if isinstance(data, list) else [data]):
        where = [*keys, index] if isinstance(data, list) and keys[-1] != "width" else keys
        empty = next((name for name, values in each.items() if values == []), None)
        if empty is not None:
            raise file.error([*where, empty], "an empty list of values")
        for values in _combinations(each):
            block: Spec = file.parse(parse, where, values)
            if isinstance(block, Identity):
                raise file.error(
                    where,
                    "identity is a choice at every position and is not listed; expected a block",
                )
            if block in found:
                raise file.error(where, f"{block.kind}({block}) is listed twice")
            found.append(block)
    if len({block.layout for block in found}) > 1:
        raise file.error(keys, "candidates of one place must all take maps or all take tokens")
    return tuple(found)


def _combinations(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = [value if isinstance(value, list) else [value] for value in data.values()]
    for values in product(*lists):
        yield dict(zip(data, values, strict=True))


def _member(file: YamlFile, space: Space, keys: Keys, entry: _Published) -> Architecture:
    """Return a published member, each of its choices checked against the space."""
    if not len(entry.widths) == len(entry.depths) == len(entry.attention) == len(space.stages):
        raise file.error(
            keys, f"widths, depths and attention need {len(space.stages)} values, one a stage"
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
            raise file.error([*keys, "attention", index], f"{count} blocks of attention, {room}")

    def pick(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
        wanted = _wanted(file, keys, entry, place)
        chosen = [block for block in candidates if _agrees(block, wanted)]
        if not chosen:
            given = ", ".join(f"{name} {value}" for name, value in wanted.items())
            raise file.error(
                keys, f"{place}: none of its candidates has {given or 'what it takes'}"
            )
        return chosen[0]

    member = space.member(entry.widths, entry.depths, entry.attention, keys[-1], pick)  # type: ignore[arg-type]
    file.parse(space.validate, keys, member)
    return member


def _wanted(file: YamlFile, keys: Keys, entry: _Published, place: Place) -> dict[str, Any]:
    """Return the hyperparameters that a published member states for a place."""
    if place.part == "head" or (place.part == "stem" and entry.stem):
        return entry.head if place.part == "head" else entry.stem
    part = "entry" if place.position is None else "block"
    wanted = {}
    for name, values in getattr(entry, part).items():
        value = values
        # Without a stem of its own, a member's stem is what enters stage 1.
        for at in (place.stage or 0, place.position):
            if isinstance(value, list) and at is not None:
                if at >= len(value):
                    raise file.error([*keys, part, name], f"no value for {place}")
                value = value[at]
        if value is not None:
            wanted[name] = value
    return wanted


def _agrees(block: BlockSpec, wanted: Mapping[str, Any]) -> bool:
    """Return whether a block has these values; of hyperparameters that its kind has not, anything
    may be said."""
    values = block.to_dict()
    return all(values[name] == value for name, value in wanted.items() if name in values)
