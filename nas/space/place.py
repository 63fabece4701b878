"""Place: the position of an operation in a network, and the only maker and parser of its text.

Operations, scores, streams of a supernet and drawings name their places by this text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from nas.errors import InputError

Part = Literal["stem", "stage", "entry", "block", "flatten", "unflatten", "head"]
Reshape = Literal["flatten", "unflatten"]

_TEXT = re.compile(
    r"(?P<end>stem|head)|stage(?P<stage>[1-9]\d*)(_(?P<part>entry|flatten|unflatten)|_block(?P<position>[1-9]\d*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Place:
    """Position of an operation: stem, stage2_entry, stage3_block5, stage4_flatten or head.

    It may also be a whole stage, stage3. Make one by the class methods, `STEM`, `HEAD` or
    `Place.parse`. `str(place)` is the text.

    Attributes:
        part: stem, head, a whole stage, its entry, one of its blocks, or a change of layout in it.
        stage: counted from 0, while the text counts from 1; None for the stem and the head.
        position: of a block in its stage, counted from 0, while the text counts from 1; None for
            other parts.
    """

    part: Part
    stage: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        in_stage = self.part not in ("stem", "head")
        if in_stage != (self.stage is not None) or (self.part == "block") != (
            self.position is not None
        ):
            raise ValueError(
                f"Place: {self.part} with stage {self.stage} and position {self.position}"
            )
        if (self.stage or 0) < 0 or (self.position or 0) < 0:
            raise ValueError(f"Place: stage {self.stage} and position {self.position} count from 0")

    @classmethod
    def whole(cls, stage: int) -> Place:
        """Return the place of a whole stage, counted from 0."""
        return _made("stage", stage)

    @classmethod
    def entry(cls, stage: int, has_stem: bool = True) -> Place:
        """Return the place of the block that enters a stage.

        Args:
            stage: counted from 0.
            has_stem: whether the network has a stem before stage 1. Where it has none, the block
                that enters stage 1 is the stem.
        """
        return STEM if stage == 0 and not has_stem else _made("entry", stage)

    @classmethod
    def block(cls, stage: int, position: int) -> Place:
        """Return the place of a block; both count from 0."""
        return _made("block", stage, position)

    @classmethod
    def reshape(cls, stage: int, kind: str) -> Place:
        """Return the place of a change of layout (flatten or unflatten) in a stage."""
        if kind not in ("flatten", "unflatten"):
            raise ValueError(
                f"Place: '{kind}' is not a change of layout (expected flatten or unflatten)"
            )
        return _made(kind, stage)

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that a text names.

        Raises:
            InputError: the text does not name a place.
        """
        return _parse(text)

    @property
    def stream(self) -> Place:
        """Return the place's residual stream: its whole stage, the stem or the head."""
        return self if self.stage is None else Place.whole(self.stage)

    @property
    def words(self) -> str:
        """Return the place as people say it: stage 3 block 5."""
        if self.stage is None:
            return self.part
        rest = {"stage": "", "block": f" block {(self.position or 0) + 1}"}.get(
            self.part, f" {self.part}"
        )
        return f"stage {self.stage + 1}{rest}"

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        if self.stage is None:
            return self.part
        stage = f"stage{self.stage + 1}"
        if self.position is not None:
            return f"{stage}_block{self.position + 1}"
        return stage if self.part == "stage" else f"{stage}_{self.part}"


STEM = Place("stem")
HEAD = Place("head")


# A search names the places of thousands of networks, so each place is made and checked once.
@lru_cache(maxsize=4096)
def _made(part: Part, stage: int, position: int | None = None) -> Place:
    return Place(part, stage, position)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Place:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InputError(
            f"place: '{text}' is not a place of a network (expected one like stem, stage2_entry,"
            " stage3_block5, stage4_flatten or head)"
        )
    if match["end"]:
        return STEM if match["end"] == "stem" else HEAD
    stage = int(match["stage"]) - 1
    if match["position"]:
        return Place.block(stage, int(match["position"]) - 1)
    return _made(match["part"] or "stage", stage)
