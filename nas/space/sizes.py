"""Sizes: options for the input size and head of a space or network, shared by commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

from nas.display import shortened
from nas.errors import InputError
from nas.options import ANY, option

if TYPE_CHECKING:
    from nas.space import Architecture, Space

Sized = TypeVar("Sized", "Space", "Architecture")
MOST_CLASSES = 100_000
"""Maximum number of classes, five times ImageNet-21k's; a larger head would need gigabytes."""


def sides(text: Any) -> tuple[int, int]:
    """Return (height, width) from 512, "512", "1024x2048" or (1024, 2048)."""
    from nas.space.architecture import check_resolution

    if isinstance(text, (list, tuple)) and len(text) == 2:
        text = "x".join(map(str, text))
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(text).strip())
    if not match:
        raise ValueError("expected one side, as in 512, or HEIGHTxWIDTH, as in 1024x2048")
    # One number is the side of a square.
    both = int(match[1]), int(match[2] or match[1])
    check_resolution(both)
    return both


@dataclass(frozen=True)
class Resolutions:
    """Several input sizes, smallest first."""

    sizes: tuple[tuple[int, int], ...]


def resolutions(text: Any) -> Resolutions:
    """Return the sizes in 192,224,256, in ascending order; each as `sides` takes it."""
    several = str(text).split(",") if isinstance(text, str) else [text]
    sizes = [sides(each) for each in several]
    if len(set(sizes)) < len(sizes):
        raise ValueError("names a size twice (expected different ones). Fix: name each size once")
    return Resolutions(tuple(sorted(sizes, key=lambda size: (size[0] * size[1], size))))


@dataclass(frozen=True)
class Numbers:
    """Several different whole numbers, smallest first."""

    values: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


def _numbers(most: int) -> Callable[[Any], Numbers]:
    """Return a function that reads whole numbers from 1 to `most`, as in 32,64."""

    def read(value: Any) -> Numbers:
        if isinstance(value, Numbers):
            return value
        several = value if isinstance(value, (list, tuple)) else str(value).split(",")
        expected = f"expected whole numbers from 1 to {most}, separated by commas"
        try:
            values = [int(str(each).strip()) for each in several]
        except ValueError:
            raise ValueError(f"is not a whole number ({expected})") from None
        if not values or not all(1 <= each <= most for each in values):
            raise ValueError(f"is out of range ({expected})")
        if len(set(values)) < len(values):
            raise ValueError("names a number twice (expected different ones)")
        return Numbers(tuple(sorted(values)))

    return read


_MOST_WIDTH = 4096
_MOST_DEPTH = 8


@dataclass(frozen=True)
class Sizes:
    """The sizes that options ask for; None where an option was not given."""

    resolution: tuple[int, int] | None = option(
        None,
        help="Input size in pixels, such as 512 or 1024x2048; multiples of 32.",
        metavar="SIDE|HEIGHTxWIDTH",
        read=sides,
        shown="its own",
        example="224",
    )
    classes: int | None = option(
        None,
        help="Number of classes of the head.",
        at_least=2,
        at_most=MOST_CLASSES,
        shown="its own",
        example="1000",
    )
    segment: int | None = option(
        None,
        help="Number of classes of a segmentation head, which replaces the network's own head.",
        metavar="CLASSES",
        at_least=2,
        at_most=MOST_CLASSES,
        example="19",
    )

    head_width: Numbers | None = option(
        None,
        help=(
            "Channels of the segmentation head, from 1 to 4096. Several, separated by commas, are"
            " choices of a space."
        ),
        metavar="WIDTHS",
        read=_numbers(_MOST_WIDTH),
        shown="64",
        example="32",
        requires={"segment": ANY},
    )
    head_depth: Numbers | None = option(
        None,
        help=(
            "Blocks of the segmentation head, from 1 to 8. Several, separated by commas, are choices"
            " of a space."
        ),
        metavar="DEPTHS",
        read=_numbers(_MOST_DEPTH),
        shown="1",
        example="1",
        requires={"segment": ANY},
    )

    def __post_init__(self) -> None:
        if self.classes is not None and self.segment is not None:
            raise InputError(
                f"--classes {self.classes} with --segment {self.segment}: --segment already gives"
                " the number of classes. Fix: leave out --classes"
            )

    def apply(self, sized: Sized) -> Sized:
        """Return the space or the architecture at these sizes.

        Raises:
            InputError: it cannot have these sizes; the message names the options.
        """
        from nas.blocks import FPNHead
        from nas.space.space import Space

        asked = self.heads if isinstance(sized, Space) else (self.head,)
        try:
            if self.segment is not None:
                sized = sized.with_head(*(FPNHead(self.segment, **each) for each in asked))
            return sized.at(self.resolution, self.classes)
        except ValueError as error:
            raise InputError(f"{' '.join(self.options())}: {error}") from None

    @property
    def heads(self) -> tuple[dict[str, Any], ...]:
        """Return the hyperparameters of each segmentation head that is asked for.

        One without any stands for the default head.
        """
        asked = {"width": self.head_width, "depth": self.head_depth}
        given = {name: several.values for name, several in asked.items() if several is not None}
        return tuple(dict(zip(given, each, strict=True)) for each in product(*given.values()))

    @property
    def head(self) -> dict[str, Any]:
        """Return the hyperparameters of the only segmentation head that is asked for.

        Raises:
            InputError: several are asked for; a network has one.
        """
        if len(self.heads) > 1:
            asked = Sizes(head_width=self.head_width, head_depth=self.head_depth).options()
            first = " ".join(f"--head-{name} {value}" for name, value in self.heads[0].items())
            raise InputError(
                f"{' '.join(asked)}: a network has one head (got {len(self.heads)}). Fix: {first}"
            )
        return self.heads[0]

    def options(self) -> list[str]:
        """Return the command-line options that give these sizes."""
        given = {
            "--resolution": size_text(self.resolution) if self.resolution else None,
            "--classes": self.classes,
            "--segment": self.segment,
            "--head-width": self.head_width,
            "--head-depth": self.head_depth,
        }
        return [
            part
            for name, value in given.items()
            if value is not None
            for part in (name, str(value))
        ]


def sides_of(resolution: object) -> tuple[int, int]:
    """Return (height, width) of a Python call, as `sides`.

    Raises:
        InputError: for anything else than one or two sides of a possible input.
    """
    from nas.space.architecture import check_resolution

    try:
        # A number below 0 is no text of a side, but a number nevertheless.
        if isinstance(resolution, int) and resolution < 0:
            check_resolution((resolution, resolution))
        return sides(resolution)
    except ValueError as error:
        reason = str(error)
    shown = shortened(" ".join(repr(resolution).split()), 40)
    raise InputError(reason if reason.startswith("resolution") else f"resolution {shown}: {reason}")


def size_text(resolution: tuple[int, int]) -> str:
    """Return an input size as --resolution takes it: 512, or 1024x2048."""
    height, width = resolution
    return str(height) if height == width else f"{height}x{width}"


def between(whole: Space, sized: Space | Architecture) -> Sizes:
    """Return the sizes that turn a space, as it is loaded, into that of `sized`.

    Args:
        whole: the space as it is loaded.
        sized: a space or an architecture made from it.
    """
    from nas.blocks import FPNHead
    from nas.space.space import Space

    # A segmentation head that the loaded space does not have came from --segment, which sets the
    # classes itself.
    heads = sized.heads if isinstance(sized, Space) else (sized.head,)
    resolution = sized.resolution if sized.resolution != whole.resolution else None
    if heads[0].task == "segmentation" and heads[0].task not in {own.task for own in whole.heads}:
        usual = FPNHead(sized.classes)
        chosen = {
            name: {head.hyperparameters().get(name, getattr(usual, name)) for head in heads}
            for name in ("width", "depth")
        }
        width, depth = (
            Numbers(tuple(sorted(values))) if values != {getattr(usual, name)} else None
            for name, values in chosen.items()
        )
        return Sizes(resolution, segment=sized.classes, head_width=width, head_depth=depth)
    return Sizes(resolution, sized.classes if sized.classes != whole.classes else None)
