"""The format of a space's YAML file, and reading one with every mistake reported by line."""

from __future__ import annotations

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

from nas.errors import InputError
from nas.files import YamlFile
from nas.space.architecture import check_resolution
from nas.space.space import Placement, Space, StageSpace
from nas.specs import BlockSpec, Identity, explain, from_dict

FORMAT = "nas-space-1"


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
            raise ValueError(f"max {self.max} is not min {self.min} plus a multiple of step {self.step}")
        return self

    def values(self) -> tuple[int, ...]:
        return tuple(range(self.min, self.max + 1, self.step))


def _form(width: Any) -> str | None:
    return _RANGE if isinstance(width, dict) else _LIST if isinstance(width, list) else None


_RANGE, _LIST = "<range>", "<list>"
_Widths = Annotated[
    Annotated[_Range, Tag(_RANGE)] | Annotated[list[PositiveInt], Field(min_length=1), Tag(_LIST)],
    Discriminator(_form, custom_error_type="width", custom_error_message="expected {min, max, step} or a list"),
]


class _Stage(_Model):
    entry: dict[str, Any]
    width: _Widths
    depth: _Range
    local: dict[str, Any]
    global_: dict[str, Any] | None = Field(default=None, alias="global")

    def widths(self) -> tuple[int, ...]:
        return self.width.values() if isinstance(self.width, _Range) else tuple(sorted(set(self.width)))


class _Published(_Model):
    widths: list[PositiveInt]
    depths: list[PositiveInt]
    attention: list[Annotated[int, Field(ge=0)]]


class _SpaceFile(_Model):
    format: Literal["nas-space-1"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    paper: str = ""
    resolution: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    attention: Placement = "stage_suffix"
    scores: str | None = None
    stages: Annotated[list[_Stage], Field(min_length=4, max_length=4)]
    head: dict[str, Any]
    published: dict[str, _Published] = {}


def read_space(path: str | Path) -> Space:
    """Reads and validates a space's YAML file.

    Raises:
        InputError: naming file, line, key and reason.
    """
    file = YamlFile(path)
    try:
        data = _SpaceFile.model_validate(file.data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        keys = [key for key in first["loc"] if key not in (_RANGE, _LIST)]
        raise file.error(keys, explain(error).split(": ", 1)[-1]) from None
    file.parse(check_resolution, ["resolution"], data.resolution)
    space = Space(
        name=data.name,
        paper=data.paper,
        resolution=(data.resolution[0], data.resolution[1]),
        placement=data.attention,
        stages=tuple(_stage(file, index, stage) for index, stage in enumerate(data.stages)),
        head=_block(file, ["head"], data.head),
        default_scores=data.scores,
        path=str(path),
    )
    if not hasattr(space.head, "classes"):
        raise file.error(["head"], f"{space.head.kind} is no classifier: it has no classes")
    _check_shapes(file, space)
    members = {}
    for name, entry in data.published.items():
        keys = ["published", name]
        if not len(entry.widths) == len(entry.depths) == len(entry.attention) == len(space.stages):
            raise file.error(keys, f"widths, depths and attention need {len(space.stages)} values, one a stage")
        for index, (stage, depth, count) in enumerate(zip(space.stages, entry.depths, entry.attention, strict=True)):
            if count > (depth if stage.global_ else 0):
                room = f"the stage has {depth} blocks" if stage.global_ else "the stage has no global block"
                raise file.error([*keys, "attention", index], f"{count} blocks of attention, {room}")
        member = space.member(entry.widths, entry.depths, entry.attention, name=name)
        file.parse(space.validate, keys, member)
        members[name] = member
    return space.with_published(members)


def _stage(file: YamlFile, index: int, stage: _Stage) -> StageSpace:
    keys: list[str | int] = ["stages", index]
    widths = stage.widths()
    entry = _block(file, [*keys, "entry"], {**stage.entry, "width": widths[-1]})
    for width in widths[:-1]:
        _block(file, [*keys, "width"], {**stage.entry, "width": width})
    return StageSpace(
        entry=entry,
        widths=widths,
        depths=(stage.depth.min, stage.depth.max),
        local=_candidate(file, [*keys, "local"], stage.local),
        global_=_candidate(file, [*keys, "global"], stage.global_) if stage.global_ else None,
    )


def _block(file: YamlFile, keys: list[str | int], data: dict[str, Any]) -> BlockSpec:
    spec: BlockSpec = file.parse(from_dict, keys, data)
    return spec


def _candidate(file: YamlFile, keys: list[str | int], data: dict[str, Any]) -> BlockSpec:
    block = _block(file, keys, data)
    if isinstance(block, Identity):
        raise file.error(keys, "identity is a choice at every position and is not listed; expected a block")
    return block


def _check_shapes(file: YamlFile, space: Space) -> None:
    """Refuses a block that some width of its stage cannot feed, before anything is built."""
    for index, stage in enumerate(space.stages):
        for width in stage.widths:
            widths = [s.widths[-1] for s in space.stages]
            widths[index] = width
            for attention in space.attention_extremes():
                arch = space.member(widths, [s.depths[1] for s in space.stages], attention)
                try:
                    arch.operations()
                except InputError as error:
                    raise file.error(["stages", index], str(error)) from None
