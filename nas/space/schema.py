"""Format of a space's YAML file, and its reader, which reports every mistake by line.

`nas.load_space` reads spaces with it. Files of scores hold the same mapping of their space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from nas.blocks import (
    Identity,
    check_hyperparameters,
    entry_from,
    from_dict,
    head_from,
    spec_of,
)
from nas.errors import InputError
from nas.files import YamlFile, bounded_text
from nas.space.architecture import check_resolution
from nas.space.candidates import Placement, Spec, StageSpace
from nas.space.fit import refusal
from nas.space.published import (
    PLACE,
    STRICT,
    Dense,
    Keys,
    Published,
    dense_network,
    published_member,
)
from nas.space.space import Space
from nas.validation import mistake_in

MOST_VALUES = 1000
"""Maximum number of widths of a stage, and of candidates of a place."""
MOST_WIDTH = 65_536
"""Maximum width of a stage, in channels."""
MOST_DEPTH = 200
"""Maximum number of blocks behind a stage's entry."""
MOST_CHOICES = 20_000
"""Maximum of widths x blocks x candidates of a stage.

Reading a space checks every candidate at every width and place. More would take minutes; the
shipped spaces have up to a few thousand.
"""

_Width = Annotated[int, Field(gt=0, le=MOST_WIDTH)]


class _Model(BaseModel):
    model_config = STRICT


class _Range(_Model):
    """Numbers from `min` to `max` in steps of `step`."""

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
        if len(self.values()) > MOST_VALUES:
            raise ValueError(f"has {len(self.values())} values, expected at most {MOST_VALUES}")
        return self

    def values(self) -> range:
        return range(self.min, self.max + 1, self.step)


class _Widths(_Range):
    """The widths of a stage as a range."""

    max: _Width


class _Depths(_Range):
    """The numbers of blocks behind a stage's entry; 0 where the entry alone may be the stage."""

    min: Annotated[int, Field(ge=0)]
    max: Annotated[int, Field(gt=0, le=MOST_DEPTH)]


# Tags of the unions below. Pydantic puts them into the location of an error; angle brackets keep
# them apart from real keys, so that `mistake_in` can hide them.
_RANGE = "<range>"
_LIST = "<list>"
_ONE = "<one>"


def _form(value: Any) -> str | None:
    """Return the tag of a width: a range is a mapping, a choice a list."""
    return _RANGE if isinstance(value, dict) else _LIST if isinstance(value, list) else None


def _number(value: Any) -> str | None:
    """Return the tag of candidates: one block is a mapping, several are a list."""
    return _ONE if isinstance(value, dict) else _LIST if isinstance(value, list) else None


_AnyWidths = Annotated[
    Annotated[_Widths, Tag(_RANGE)]
    | Annotated[list[_Width], Field(min_length=1, max_length=MOST_VALUES), Tag(_LIST)],
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
_Entries = Annotated[_Candidates, WithJsonSchema({PLACE: "entry"})]
_Positions = Annotated[_Candidates, WithJsonSchema({PLACE: "block"})]
_Heads = Annotated[_Candidates, WithJsonSchema({PLACE: "head"})]


class _Stage(_Model):
    """A stage of the file.

    Attributes:
        entry: candidates that enter it, without a width.
        local, global_: candidates of its positions.
    """

    entry: _Entries
    width: _AnyWidths
    depth: _Depths
    local: _Positions
    global_: _Positions | None = Field(default=None, alias="global")

    def widths(self) -> tuple[int, ...]:
        """Return the widths to choose from, ascending."""
        if isinstance(self.width, _Range):
            return tuple(self.width.values())
        return tuple(sorted(set(self.width)))


class SpaceFile(_Model):
    """The whole file of a space."""

    format: Literal["nas-space-1"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$")]
    paper: str = ""
    resolution: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    attention: Placement = "stage_suffix"
    defaults: dict[str, dict[str, Any]] = {}
    scores: str | None = None
    recipe: str | dict[str, str] = {}
    stem: _Entries | None = None
    stages: Annotated[list[_Stage], Field(min_length=4, max_length=4)]
    head: _Heads
    published: dict[str, Published] = {}
    dense: dict[str, Dense] = {}


def read_space(path: str | Path) -> Space:
    """Return the space in a YAML file, validated.

    Raises:
        InputError: naming file, line, key and reason.
    """
    return _read(str(path), bounded_text(Path(path)))


@lru_cache(maxsize=64)
def _read(path: str, text: str) -> Space:
    """Return the space in the text of a YAML file.

    A published member is found by its name in all spaces, several times in one command, and a
    space takes 4 to 35 ms to validate.
    """
    file = YamlFile(path, text)
    return space_from(file, file.data, [], path)


def space_from(file: YamlFile, data: Any, keys: Keys, path: str = "") -> Space:
    """Return the space that a mapping in a YAML file describes.

    Args:
        file: the file, for the lines of errors.
        data: the mapping.
        keys: the path of the mapping in the file.
        path: recorded as the space's path.

    Raises:
        InputError: naming file, line, key and reason.
    """
    if isinstance(data, dict) and str(data.get("format", "")).startswith("nas-architecture"):
        raise file.error(
            [*keys, "format"],
            "is that of an architecture, expected a space. Fix: for an architecture, nas predict",
        )
    try:
        checked = SpaceFile.model_validate(data)
    except ValidationError as error:
        raise mistake_in(file, error, keys, hidden=(_RANGE, _LIST, _ONE)) from None
    file.parse(check_resolution, [*keys, "resolution"], checked.resolution)
    defaults = _Defaults(file, [*keys, "defaults"], checked.defaults)
    read = partial(_blocks, file, defaults)
    space = Space(
        name=checked.name,
        paper=checked.paper,
        resolution=(checked.resolution[0], checked.resolution[1]),
        placement=checked.attention,
        stages=tuple(
            _stage(file, read, [*keys, "stages", index], stage)
            for index, stage in enumerate(checked.stages)
        ),
        heads=read([*keys, "head"], checked.head, head_from),
        stems=read([*keys, "stem"], checked.stem, entry_from) if checked.stem else (),
        default_scores=checked.scores,
        recipes={"": checked.recipe} if isinstance(checked.recipe, str) else dict(checked.recipe),
        path=path,
    )
    defaults.refuse_unused()
    # Published members come last: they are picked from candidates that are known to fit.
    refused = refusal(space)
    if refused:
        raise file.error([*keys, *refused[0]], refused[1])
    members = {
        name: published_member(file, space, [*keys, "published", name], entry)
        for name, entry in checked.published.items()
    }
    dense = {
        name: dense_network(file, members, [*keys, "dense", name], entry)
        for name, entry in checked.dense.items()
    }
    return replace(space, published=members, dense=dense)


class _Defaults:
    """The `defaults:` of a file: hyperparameters by kind, for all places that do not give others.

    Raises:
        InputError: a kind or a hyperparameter is unknown, or a value has another type.
    """

    def __init__(self, file: YamlFile, keys: Keys, by_kind: Mapping[str, dict[str, Any]]) -> None:
        self.file = file
        self.keys = keys
        self.by_kind = by_kind
        self.used = set[str]()
        for kind, values in by_kind.items():
            file.parse(spec_of, [*keys, kind], kind)
            empty = next((name for name, each in values.items() if each == []), None)
            if empty is not None:
                raise file.error([*keys, kind, empty], EMPTY)
            _check_number(file, [*keys, kind], [values])
            for each in _combinations(values):
                file.parse(lambda some: check_hyperparameters(kind, some), [*keys, kind], each)  # noqa: B023

    def added_to(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """Return a place's block with the defaults of its kind; its own values have priority."""
        kind = block.get("kind")
        if not isinstance(kind, str) or kind not in self.by_kind:
            return dict(block)
        self.used.add(kind)
        return {"kind": kind, **self.by_kind[kind], **block}

    def mentioned(self, block: Mapping[str, Any]) -> str:
        """Return the source of a block's values from `defaults:`, for an error at its place."""
        kind = block.get("kind")
        names = [name for name in self.by_kind.get(str(kind), {}) if name not in block]
        if not names:
            return ""
        line = self.file.line([*self.keys, str(kind)])
        return f" ({', '.join(names)} from defaults, line {line})"

    def refuse_unused(self) -> None:
        """Raise InputError for a kind that no place has: its values would have no effect."""
        for kind in self.by_kind:
            if kind not in self.used:
                raise self.file.error(
                    [*self.keys, kind], "no place of this space has this kind. Fix: remove it"
                )


EMPTY = "is an empty list, expected at least one value"
"""Reason of an error at a hyperparameter with a list of no values."""
Read = Callable[[Keys, Any, Callable[[Any], Any]], tuple[Any, ...]]
"""`_blocks` of one file: the candidates at these keys."""


def _stage(file: YamlFile, read: Read, keys: Keys, stage: _Stage) -> StageSpace:
    """Return a stage of the space; its entries are at the largest width."""
    widths = stage.widths()
    entries = read([*keys, "entry"], _with(stage.entry, width=widths[-1]), entry_from)
    local = read([*keys, "local"], stage.local, from_dict)
    global_ = read([*keys, "global"], stage.global_, from_dict) if stage.global_ else ()
    choices = len(widths) * max(len(entries), stage.depth.max * len(local + global_))
    if choices > MOST_CHOICES:
        raise file.error(
            keys,
            f"has {choices} choices (widths x blocks x candidates), expected at most"
            f" {MOST_CHOICES}",
        )
    # The space keeps entries at the largest width only. An entry that refuses a smaller width is an
    # error of `width`.
    for width in widths[:-1]:
        read([*keys, "width"], _with(stage.entry, width=width), entry_from)
    return StageSpace(
        entries=entries,
        widths=widths,
        depths=(stage.depth.min, stage.depth.max),
        local=local,
        global_=global_,
    )


def _with(
    data: dict[str, Any] | list[dict[str, Any]], **values: Any
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return one or several candidates with further values."""
    return [{**each, **values} for each in data] if isinstance(data, list) else {**data, **values}


def _blocks(
    file: YamlFile,
    defaults: _Defaults,
    keys: Keys,
    data: dict[str, Any] | list[dict[str, Any]],
    parse: Callable[[Any], Spec],
) -> tuple[Spec, ...]:
    """Return the candidates of a place, each made by `parse`.

    A hyperparameter with a list of values stands for one candidate per value.
    """
    candidates: list[Spec] = []
    several = data if isinstance(data, list) else [data]
    _check_number(file, keys, [defaults.added_to(each) for each in several])
    for index, each in enumerate(several):
        where = [*keys, index] if isinstance(data, list) and keys[-1] != "width" else keys
        empty = next((name for name, values in each.items() if values == []), None)
        if empty is not None:
            raise file.error([*where, empty], EMPTY)
        for values in _combinations(defaults.added_to(each)):
            try:
                block = parse(values)
            except InputError:
                raise
            except (ValueError, TypeError) as error:
                raise file.error(where, f"{error}{defaults.mentioned(each)}") from None
            if isinstance(block, Identity):
                raise file.error(
                    where,
                    "identity is a choice at every position and must not be listed. Fix: remove it",
                )
            if block in candidates:
                raise file.error(
                    where, f"{block.kind}({block}) is listed twice. Fix: remove one of the two"
                )
            candidates.append(block)
    if len({block.layout for block in candidates}) > 1:
        raise file.error(keys, "candidates of one place must all take maps or all take tokens")
    return tuple(candidates)


def _count(values: Mapping[str, Any]) -> int:
    """Return the number of combinations of the listed values."""
    return prod(len(value) for value in values.values() if isinstance(value, list))


def _check_number(file: YamlFile, keys: Keys, blocks: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError where blocks with lists of values stand for too many candidates."""
    number = sum(map(_count, blocks))
    if number > MOST_VALUES:
        raise file.error(keys, f"has {number} candidates, expected at most {MOST_VALUES}")


def _combinations(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one mapping per combination of the listed values."""
    lists = [value if isinstance(value, list) else [value] for value in data.values()]
    for values in product(*lists):
        yield dict(zip(data, values, strict=True))
