"""The options that give a space or a network its input size and its task, alike for all commands that take them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from nas.space import Architecture, Space

Resolution = Annotated[
    str | None, typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Input size, as 512 or 1024x2048; its own by default.")
]
Classes = Annotated[int | None, typer.Option(help="Classes of the head; its own by default.")]
Segment = Annotated[
    int | None, typer.Option(metavar="CLASSES", help="Put a segmentation head with so many classes on the features.")
]
Sized = TypeVar("Sized", "Space", "Architecture")


@dataclass(frozen=True)
class Sizes:
    """What the options asked for; None where they were not given."""

    resolution: tuple[int, int] | None = None
    classes: int | None = None
    segment: int | None = None

    def apply(self, sized: Sized) -> Sized:
        """The space or the architecture at these sizes.

        Raises:
            InputError: naming the options, where it cannot be that.
        """
        from nas.errors import InputError
        from nas.specs import FPNHead

        try:
            if self.segment is not None:
                sized = sized.with_head(FPNHead(self.segment))
            return sized.at(self.resolution, self.classes)
        except ValueError as error:
            raise InputError(f"{' '.join(self.options())}: {error}") from None

    def options(self) -> list[str]:
        """The options that say the same."""
        given = {
            "--resolution": size_text(self.resolution) if self.resolution else None,
            "--classes": self.classes,
            "--segment": self.segment,
        }
        return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def read(resolution: str | int | None = None, classes: int | None = None, segment: int | None = None) -> Sizes:
    """The sizes that a command line gives.

    Raises:
        InputError: naming the option, for a mistake in it or for two that exclude each other.
    """
    from nas.errors import InputError

    if classes is not None and segment is not None:
        raise InputError(f"--classes {classes} with --segment {segment}: --segment gives the number of classes itself")
    return Sizes(None if resolution is None else _sides(str(resolution)), classes, segment)


def _sides(text: str) -> tuple[int, int]:
    from nas.errors import InputError
    from nas.space.architecture import check_resolution

    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    if not match:
        raise InputError(f"--resolution {text}: expected one side, as 512, or HEIGHTxWIDTH, as 1024x2048")
    sides = int(match[1]), int(match[2] or match[1])
    try:
        check_resolution(sides)
    except ValueError as error:
        raise InputError(f"--resolution {text}: {error}") from None
    return sides


_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def count(text: str) -> float:
    """Return a number as options take it: 4000000, 4M, 1.2G."""
    match = re.fullmatch(r"\s*([0-9.eE+-]+?)\s*([kKMGB]?)\s*", str(text))
    value = _number(match[1]) if match else None
    if match is None or value is None:
        raise typer.BadParameter(f"{text}: expected a number, as 4000000 or 4M")
    return value * _UNITS[match[2]]


def milliseconds(text: str) -> float:
    """Return a latency as options take it: 1.2 or 1.2ms."""
    match = re.fullmatch(r"\s*([0-9.eE+-]+?)\s*(ms|s|us|µs)?\s*", str(text))
    value = _number(match[1]) if match else None
    if match is None or value is None:
        raise typer.BadParameter(f"{text}: expected a positive number of milliseconds, as 1.2 or 1.2ms")
    return value * {"s": 1e3, "us": 1e-3, "µs": 1e-3}.get(match[2] or "ms", 1.0)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def size_text(resolution: tuple[int, int]) -> str:
    """An input size as --resolution takes it: 512, or 1024x2048."""
    height, width = resolution
    return str(height) if height == width else f"{height}x{width}"


def between(whole: Space, sized: Space | Architecture) -> Sizes:
    """What turns a space as it is loaded into one of the sizes of `sized`, or one that holds it."""
    from nas.space import Space

    head = sized.heads[0] if isinstance(sized, Space) else sized.head
    resolution = sized.resolution if sized.resolution != whole.resolution else None
    if head.task == "segmentation" and head.task not in {own.task for own in whole.heads}:
        return Sizes(resolution, segment=sized.classes)
    return Sizes(resolution, sized.classes if sized.classes != whole.classes else None)


@contextmanager
def naming(sizes: Sizes) -> Iterator[None]:
    """Where a table lacks rows, lets the command that measures them have these sizes."""
    from nas.latency import MissingRows

    try:
        yield
    except MissingRows as error:
        raise MissingRows(" ".join([str(error), *sizes.options()]), error.operations) from None
