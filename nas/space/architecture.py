"""Architecture: one member of a space as plain frozen data, and its chain of operations.

Every stage of the project passes it on: a search returns one, `nas.build` makes a network of it, a
latency table sums its operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from nas.blocks import (
    BlockSpec,
    EntrySpec,
    Flatten,
    HeadSpec,
    Identity,
    Operation,
    Shape,
    Unflatten,
    entry_from,
    from_dict,
    head_from,
    pyramid,
)
from nas.display import shortened
from nas.errors import InputError, check_count, check_type
from nas.files import YamlFile, write_yaml
from nas.space.place import HEAD, STEM, Place
from nas.space.sizes import MOST_CLASSES, sides_of

Spec = TypeVar("Spec", bound=BlockSpec)

FORMAT = "nas-architecture-1"
STRIDE = 32
"""How much the last stage reduces the input; the four stages have strides 4, 8, 16 and 32."""
MOST_SIDE = 16_384
"""Maximum side of an input in pixels; the largest published one has 2,048."""


class Misfit(InputError):
    """A block does not take the shape that comes in at its place.

    Attributes:
        place: place of the block.
    """

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(f"{place}: {reason}", reason=reason)
        self.place = place


@dataclass(frozen=True)
class Stage:
    """A stage at one resolution: the block that enters it (stem or embedding) and its positions."""

    entry: EntrySpec
    blocks: tuple[BlockSpec, ...]

    @property
    def width(self) -> int:
        """Return the channels of the stage's residual stream."""
        return self.entry.width

    @cached_property
    def present(self) -> tuple[BlockSpec, ...]:
        """Return the stage's blocks without the dropped positions."""
        return tuple(block for block in self.blocks if not isinstance(block, Identity))

    @property
    def depth(self) -> int:
        """Return the number of blocks that are present."""
        return len(self.present)

    def equals(self, other: Stage) -> bool:
        """Return whether both are the same part of a network, whatever positions were dropped."""
        return (self.entry, self.present) == (other.entry, other.present)

    def with_width(self, width: int) -> Stage:
        """Return the stage with another width of its residual stream."""
        return Stage(replace(self.entry, width=width), self.blocks)

    def with_block(self, position: int, block: BlockSpec) -> Stage:
        """Return the stage with another block at a position, counted from 0."""
        return Stage(self.entry, (*self.blocks[:position], block, *self.blocks[position + 1 :]))


@dataclass(frozen=True)
class Architecture:
    """One network, fully explicit: it rebuilds without a space file.

    `stem` is the block before stage 1, at stride 2, in families that enter stage 1 like the other
    stages. It is None where the block that enters stage 1 takes the image.

    A position of a stage may hold `identity` where a block was dropped. So an architecture that was
    sliced out of a supernet keeps the numbers of its positions. `compact()` removes them.
    """

    space: str
    resolution: tuple[int, int]
    stages: tuple[Stage, ...]
    head: HeadSpec
    name: str = ""
    stem: EntrySpec | None = None

    def __repr__(self) -> str:
        shape = (
            f"widths {'-'.join(map(str, self.widths))}, depths {'-'.join(map(str, self.depths))}"
        )
        size = f"{self.resolution[0]}x{self.resolution[1]}"
        try:
            counts = f"{self.params / 1e6:.2f} M parameters, {self.macs / 1e9:.3f} GMACs"
        # Counting builds the operations. Blocks that do not fit together must have a repr, too.
        except ValueError as error:
            counts = f"invalid: {shortened(str(error))}"
        return f"Architecture({self.name!r} of space {self.space!r}, {size}, {shape}, {counts})"

    def operations(self) -> tuple[Operation, ...]:
        """Return the chain of operations from image to logits, layout changes included."""
        return self._operations

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(stage.width for stage in self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(stage.depth for stage in self.stages)

    @property
    def classes(self) -> int:
        return self.head.classes

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one image."""
        return sum(operation.macs for operation in self.operations())

    @property
    def params(self) -> int:
        """Return the number of learned parameters."""
        return sum(operation.params for operation in self.operations())

    def with_stage(self, index: int, stage: Stage) -> Architecture:
        """Return the same network with another stage at an index, counted from 0."""
        # Searches call this often, and `replace` takes several times as long.
        stages = (*self.stages[:index], stage, *self.stages[index + 1 :])
        return Architecture(
            self.space, self.resolution, stages, head=self.head, name=self.name, stem=self.stem
        )

    def block(self, place: Place | str) -> BlockSpec:
        """Return the block at a place, or at the place of this text.

        That is the stem, a stage's entry, a block of a stage or the head.
        """
        place = _place(place)
        if place.part == "head":
            return self.head
        if place.part == "stem":
            return self.stem or self.stages[0].entry
        stage = self.stages[self._stage_at(place)]
        return stage.entry if place.position is None else stage.blocks[place.position]

    def with_block(self, place: Place | str, block: BlockSpec) -> Architecture:
        """Return the same network with another block at a place, or at the place of this text.

        Raises:
            Misfit: the place needs a head or a block that can enter a stage, and `block` is not
                one.
        """
        place = _place(place)
        check_type("block", block, BlockSpec)
        if place.part == "head":
            if not isinstance(block, HeadSpec):
                raise Misfit(place, f"{block.kind} is not a head")
            return replace(self, head=block)
        index = 0 if place.part == "stem" else self._stage_at(place)
        if place.position is not None:
            return self.with_stage(index, self.stages[index].with_block(place.position, block))
        if not isinstance(block, EntrySpec):
            raise Misfit(place, f"{block.kind} cannot enter a stage")
        if place.part == "stem" and self.stem is not None:
            return replace(self, stem=block)
        return self.with_stage(index, replace(self.stages[index], entry=block))

    def _stage_at(self, place: Place) -> int:
        if place.stage is None or place.part not in ("entry", "block"):
            raise ValueError(f"{place}: is not the place of a block")
        return place.stage

    def with_head(self, head: HeadSpec) -> Architecture:
        """Return the same network with another head, for example that of dense prediction."""
        check_type("head", head, HeadSpec)
        return replace(self, head=head)

    def at(
        self, resolution: int | tuple[int, int] | None = None, classes: int | None = None
    ) -> Architecture:
        """Return the same network for another input size or another number of classes.

        Raises:
            InputError: the size or the number is not a possible one.
        """
        size = self.resolution if resolution is None else sides_of(resolution)
        head = self.head if classes is None else with_classes(self.head, classes)
        return replace(self, resolution=size, head=head)

    def compact(self) -> Architecture:
        """Return the same network without its dropped positions."""
        return replace(
            self, stages=tuple(replace(stage, blocks=stage.present) for stage in self.stages)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the architecture as the data of its YAML file."""
        return {
            "format": FORMAT,
            "name": self.name,
            "space": self.space,
            "resolution": list(self.resolution),
            **({"stem": self.stem.to_dict()} if self.stem else {}),
            "stages": [
                {
                    "entry": stage.entry.to_dict(),
                    "blocks": [_block_to_data(block) for block in stage.blocks],
                }
                for stage in self.stages
            ],
            "head": self.head.to_dict(),
        }

    def save(self, path: str | Path) -> None:
        """Write the YAML file that `load_architecture` reads."""
        write_yaml(path, self.to_dict())

    @cached_property
    def _operations(self) -> tuple[Operation, ...]:
        return tuple(_chain(self))

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the cached operations."""
        return {key: value for key, value in self.__dict__.items() if key != "_operations"}


def _place(place: Place | str) -> Place:
    if isinstance(place, str):
        return Place.parse(place)
    check_type("place", place, Place)
    return place


def with_classes(head: HeadSpec, classes: int) -> HeadSpec:
    """Return a head for another number of classes; raise InputError for an impossible one."""
    return replace(head, classes=check_count("classes", classes, least=2, most=MOST_CLASSES))


def check_resolution(resolution: Sequence[int]) -> None:
    """Raise ValueError unless both sides are multiples of 32, the last stage's stride, in range."""
    sides = [side for side in resolution if STRIDE <= side <= MOST_SIDE and side % STRIDE == 0]
    if len(sides) != 2 or len(resolution) != 2:
        size = "x".join(map(str, resolution))
        raise ValueError(
            f"resolution {size}: both sides must be multiples of {STRIDE}, at least {STRIDE} and at"
            f" most {MOST_SIDE}"
        )


def _chain(arch: Architecture) -> Iterator[Operation]:
    """Yield the operations from image to logits, each on the output shape of the one before."""
    shape = Shape(3, *arch.resolution)
    maps = list[Shape]()
    if arch.stem is not None:
        for operation in with_layout(STEM, arch.stem, shape):
            yield operation
            shape = operation.output
    for index, stage in enumerate(arch.stages):
        # Without a stem of its own, the entry of stage 1 is at the place "stem".
        steps: list[tuple[Place, BlockSpec]] = [
            (Place.entry(index, arch.stem is not None), stage.entry)
        ]
        steps += [
            (Place.block(index, position), block) for position, block in enumerate(stage.blocks)
        ]
        for place, spec in steps:
            # A dropped position has no operation.
            if isinstance(spec, Identity):
                continue
            for operation in with_layout(place, spec, shape, stage=index):
                yield operation
                shape = operation.output
            # A block has a residual shortcut, or may be dropped to identity: its output must have
            # the shape of its input.
            if spec is not stage.entry and shape != operation.input:
                raise Misfit(
                    place,
                    f"{spec.kind} changes its input {operation.input} to {shape}, so it cannot be a"
                    " block of a stage",
                )
        # A head that takes a pyramid reads the end of each stage as a map, whatever its layout
        # there.
        maps.append(replace(shape, layout="map"))
    last = len(arch.stages) - 1
    if arch.head.layout == "pyramid":
        if shape.layout == "tokens":
            yield Operation(str(Place.reshape(last, Unflatten.kind)), Unflatten(), shape)
        shape = pyramid(maps[-arch.head.levels :])
    yield from with_layout(HEAD, arch.head, shape, stage=last)


def with_layout(place: Place, spec: BlockSpec, shape: Shape, stage: int = 0) -> Iterator[Operation]:
    """Yield the operation at a place, after the change of layout that it needs.

    Args:
        place: the place that the operation is named after.
        spec: its block.
        shape: the input shape.
        stage: the stage, counted from 0, that the change of layout belongs to.

    Raises:
        Misfit: the block does not take the shape.
    """
    # A pyramid is made of maps of several stages, so it needs no reshape here.
    if spec.layout not in (shape.layout, "pyramid"):
        change = Flatten() if spec.layout == "tokens" else Unflatten()
        reshape = Operation(str(Place.reshape(stage, change.kind)), change, shape)
        yield reshape
        shape = reshape.output
    try:
        spec.check(shape)
    except ValueError as error:
        raise Misfit(place, f"{spec.kind} does not fit its input {shape}: {error}") from None
    yield Operation(str(place), spec, shape)


def _block_to_data(block: BlockSpec) -> dict[str, Any] | str:
    return block.kind if isinstance(block, Identity) else block.to_dict()


def read_architecture(path: str | Path) -> Architecture:
    """Read an architecture's YAML file.

    Raises:
        InputError: naming file, line, key and reason.
    """
    return architecture_from(YamlFile(path))


def architecture_from(file: YamlFile) -> Architecture:
    """Return the architecture in an opened YAML file.

    Raises:
        InputError: naming file, line, key and reason.
    """
    data = file.data
    if data.get("format") != FORMAT:
        raise file.error(
            ["format"],
            f"is {data.get('format')!r}, expected '{FORMAT}', the format of an architecture file",
        )
    known = {"format", "name", "space", "resolution", "stem", "stages", "head"}
    for key in data:
        if key not in known:
            raise file.error([key], f"unknown key; known: {', '.join(sorted(known))}")
    resolution = file.parse(_resolution, ["resolution"], data.get("resolution"))
    stages = data.get("stages")
    if not isinstance(stages, list) or not stages:
        raise file.error(["stages"], "expected a list of stages")
    arch = Architecture(
        space=_name(file, "space"),
        name=_name(file, "name"),
        resolution=resolution,
        stages=tuple(_stage(file, index, stage) for index, stage in enumerate(stages)),
        head=_spec(file, ["head"], data.get("head"), head_from),
        stem=_spec(file, ["stem"], data["stem"], entry_from) if "stem" in data else None,
    )
    try:
        # Building the chain checks that every block takes its input shape.
        arch.operations()
    except ValueError as error:
        raise file.error([], str(error)) from None
    return arch


def _name(file: YamlFile, key: str) -> str:
    """Return a name of the file, "" where it has none. YAML reads a name of digits as a number."""
    name = file.data.get(key, "")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise file.error([key], f"is not a name (got {name!r})")
    return str(name)


def _stage(file: YamlFile, index: int, stage: Any) -> Stage:
    """Return a stage of the file; raise InputError naming the line of a mistake."""
    keys: list[str | int] = ["stages", index]
    if not isinstance(stage, dict) or set(stage) != {"entry", "blocks"}:
        raise file.error(keys, "expected the keys entry and blocks")
    if not isinstance(stage["blocks"], list):
        raise file.error([*keys, "blocks"], "expected a list of blocks")
    entry = _spec(file, [*keys, "entry"], stage["entry"], entry_from)
    blocks = (
        _spec(file, [*keys, "blocks", i], block, from_dict)
        for i, block in enumerate(stage["blocks"])
    )
    return Stage(entry, tuple(blocks))


def _spec(
    file: YamlFile, keys: Sequence[str | int], data: Any, parse: Callable[[Any], Spec]
) -> Spec:
    """Return a block of the file, made by `parse`."""
    if not isinstance(data, (dict, str)):
        raise file.error(keys, f"expected a block, got {data!r}")
    spec: Spec = file.parse(parse, keys, data)
    return spec


def _resolution(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or not all(
        isinstance(side, int) and not isinstance(side, bool) for side in value
    ):
        raise ValueError(f"{value!r} is not a list of two whole numbers")
    check_resolution(value)
    return value[0], value[1]
