"""The drawing of a network: stage by stage, a column a block, as high as the stage is wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.report.breakdown import ROLES, Bar, Role
from nas.space import Architecture
from nas.space.architecture import STRIDE
from nas.space.place import HEAD, STEM, Place

COLUMN, HIGHEST = 17, 96
"""Pixels: the width of a block with its gap, and the height of the widest stage."""


@dataclass(frozen=True)
class Box:
    """One operation, or a position whose block was dropped (`role` is None then).

    Attributes:
        x, height: pixels; boxes stand on a common line.
        text: what stands in it: the block's expansion, where blocks differ in it.
        about: lines on it, for readers who ask.
    """

    name: str
    role: Role | None
    x: int
    height: int
    text: str
    about: tuple[str, ...]


@dataclass(frozen=True)
class StageDrawing:
    """A stage with what enters it; the last one with the head too. `title` and `about` say what it
    is in words."""

    title: str
    about: str
    boxes: tuple[Box, ...]

    @property
    def pixels(self) -> tuple[int, int]:
        """Return width and height of the drawing."""
        return COLUMN * len(self.boxes), max((box.height for box in self.boxes), default=0) + 4


@dataclass(frozen=True)
class Drawing:
    """A network. `kinds` are the block kinds of each role that occurs, `expansions` whether boxes
    show them."""

    stages: tuple[StageDrawing, ...]
    kinds: dict[Role, tuple[str, ...]]
    expansions: bool

    @property
    def dropped(self) -> int:
        """Return how many positions were dropped."""
        return sum(box.role is None for stage in self.stages for box in stage.boxes)


def drawing(arch: Architecture, bars: Sequence[Bar]) -> Drawing:
    """Return the drawing of a network, whose operations `bars` describe."""
    operations = [bar for bar in bars if bar.role != "call"]
    blocks = [block for stage in arch.stages for block in stage.present]
    shown = len({getattr(block, "expansion", None) for block in blocks}) > 1
    stages = tuple(_stage(arch, index, operations, shown) for index in range(len(arch.stages)))
    kinds: dict[Role, tuple[str, ...]] = {
        role: tuple(dict.fromkeys(bar.kind for bar in operations if bar.role == role))
        for role in ROLES
    }
    return Drawing(stages, {role: names for role, names in kinds.items() if names}, shown)


def _stage(arch: Architecture, index: int, bars: Sequence[Bar], expansions: bool) -> StageDrawing:
    stage = arch.stages[index]
    number = index + 1
    ends = {STEM: 0, HEAD: len(arch.stages) - 1}
    places = [(Place.parse(bar.name), bar) for bar in bars]
    own: list[Bar | int] = [bar for place, bar in places if ends.get(place, place.stage) == index]
    for position, block in enumerate(stage.blocks):
        if block.kind == "identity":
            own.insert(
                next((i for i, entry in enumerate(own) if _follows(entry, position)), len(own)),
                position,
            )
    height = round(12 + (HIGHEST - 12) * stage.width / max(arch.widths))
    boxes = tuple(
        _box(arch, index, entry, COLUMN * at, height, expansions) for at, entry in enumerate(own)
    )
    stride = STRIDE >> (len(arch.stages) - number)
    size = "x".join(str(side // stride) for side in arch.resolution)
    of = f" of {len(stage.blocks)}" if len(stage.blocks) > stage.depth else ""
    plural = "" if (of or stage.depth) == 1 else "s"
    return StageDrawing(
        f"Stage {number}",
        f"{stage.width} channels at {size}, {stage.depth}{of} block{plural}",
        boxes,
    )


def _follows(entry: Bar | int, position: int) -> bool:
    """Return whether an operation comes after a position of its stage (a number is a dropped
    position before it)."""
    if isinstance(entry, int):
        return False
    place = Place.parse(entry.name)
    return place.part == "head" if place.position is None else place.position > position


def _box(
    arch: Architecture, stage: int, entry: Bar | int, x: int, height: int, expansions: bool
) -> Box:
    if isinstance(entry, int):
        name = str(Place.block(stage, entry))
        return Box(name, None, x, height, "", (name, "dropped: identity"))
    shown = expansions and entry.role in ("local", "global")
    expansion = arch.block(entry.name).texts().get("expansion", "") if shown else ""
    return Box(entry.name, entry.role, x, height, expansion, _about(entry))


def _about(bar: Bar) -> tuple[str, ...]:
    times = [f"predicted {bar.predicted_ms:.4g} ms"] if bar.predicted_ms is not None else []
    times += [f"measured {bar.measured_ms:.4g} ms"] if bar.measured_ms is not None else []
    return (
        f"{bar.name}: {bar.kind}",
        *([bar.hyperparameters] if bar.hyperparameters else []),
        bar.shape,
        f"{bar.params / 1e6:.3f} M parameters, {bar.macs / 1e6:.1f} M MACs",
        *([", ".join(times)] if times else []),
    )


def caption(data: Drawing) -> str:
    """Return what heights, dashes and numbers of a drawing mean."""
    dropped = (
        f"; dashed: {data.dropped} dropped position{'' if data.dropped == 1 else 's'}"
        if data.dropped
        else ""
    )
    numbers = "; number: expansion" if data.expansions else ""
    return f"One column per operation, as high as its stage is wide{dropped}{numbers}."
