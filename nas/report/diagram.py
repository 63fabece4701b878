"""Drawing of a network: stage by stage, one column per block, with the stage's width as height.

`nas.report.run` calls `drawing`; templates render it on the page and as network.png.
"""

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
        x, height: in pixels; boxes have a common base line.
        text: the block's expansion, where blocks differ in it.
        about: lines of its tooltip.
    """

    name: str
    role: Role | None
    x: int
    height: int
    text: str
    about: tuple[str, ...]


@dataclass(frozen=True)
class StageDrawing:
    """A stage with its entry; the last one also has the head.

    Attributes:
        title: its number.
        about: its width, size and depth, as text.
    """

    title: str
    about: str
    boxes: tuple[Box, ...]

    @property
    def pixels(self) -> tuple[int, int]:
        """Return the width and height of the drawing in pixels."""
        return COLUMN * len(self.boxes), max((box.height for box in self.boxes), default=0) + 4


@dataclass(frozen=True)
class Drawing:
    """The drawing of a network.

    Attributes:
        kinds: the kinds of blocks of each role that occurs.
        expansions: whether boxes show their expansion.
    """

    stages: tuple[StageDrawing, ...]
    kinds: dict[Role, tuple[str, ...]]
    expansions: bool

    @property
    def dropped(self) -> int:
        """Return the number of dropped positions."""
        return sum(box.role is None for stage in self.stages for box in stage.boxes)


def drawing(arch: Architecture, bars: Sequence[Bar]) -> Drawing:
    """Return the drawing of a network whose operations are `bars`."""
    operations = [bar for bar in bars if bar.role != "call"]
    blocks = [block for stage in arch.stages for block in stage.present]
    # An expansion that all blocks share is left out of the boxes.
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
    # The stem is drawn with the first stage, the head with the last one.
    own: list[Bar | int] = [bar for place, bar in places if ends.get(place, place.stage) == index]
    # Dropped positions have no operation: insert their numbers where their blocks would be.
    for position, block in enumerate(stage.blocks):
        if block.kind == "identity":
            own.insert(
                next((i for i, entry in enumerate(own) if _follows(entry, position)), len(own)),
                position,
            )
    # At least 12 pixels, so that the number of a narrow stage's expansion fits.
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
    """Return whether an entry comes after a position of its stage.

    An entry is an operation or the number of a dropped position, which always comes before.
    """
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
    """Return the legend of a drawing: the meaning of heights, dashes and numbers."""
    dropped = (
        f"; dashed: {data.dropped} dropped position{'' if data.dropped == 1 else 's'}"
        if data.dropped
        else ""
    )
    numbers = "; number: expansion" if data.expansions else ""
    return f"One column per operation; height: width of its stage{dropped}{numbers}."
