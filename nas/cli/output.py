"""What commands write: JSON on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nas.display import printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from nas.space.sizes import Sizes
    from nas.training.metrics import Progress as TrainingRow


@dataclass
class Output:
    """How the command that runs prints; `--json` and `--quiet` set it."""

    as_json: bool = False
    quiet: bool = False


OUTPUT = Output()
"""One process runs one command."""


def set_output(as_json: bool = False, quiet: bool = False) -> None:
    """Set how the command that runs prints."""
    OUTPUT.as_json = as_json
    OUTPUT.quiet = quiet


def say(text: str = "") -> None:
    """Print progress and notes for people on stderr, so that stdout stays one document or one
    result.

    Of processes that `torchrun` started together the first one speaks. `--quiet` silences all.
    """
    if os.environ.get("RANK", "0") == "0" and not OUTPUT.quiet:
        print(printable_lines(text), file=sys.stderr, flush=True)


def emit(document: dict[str, Any] | list[Any], text: str) -> None:
    """Print the command's result on stdout: `document` with --json, else `text` for a person."""
    print(json.dumps(document, indent=2) if OUTPUT.as_json else printable_lines(text), flush=True)


def next_step(command: str) -> None:
    """Name the command that continues the job, so that nobody is lost after a stage."""
    say(f"next: {command}")


@contextmanager
def naming(sizes: Sizes) -> Iterator[None]:
    """Context manager: where a table lacks rows, the command that measures them has these sizes."""
    from nas.latency import MissingRows

    try:
        yield
    except MissingRows as error:
        raise MissingRows(" ".join([str(error), *sizes.options()]), error.operations) from None


class Tell(Protocol):
    """Tells what is being done, how many are done, how many there are, and how it goes; each `what`
    has its bar."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


def training_note(row: TrainingRow) -> str:
    """Return how a training goes, to stand beside its bar."""
    return f"epoch {row.epoch:.1f}  loss {row.loss:.3f}  {row.images_per_second:.0f} images/s"


@contextmanager
def bars() -> Iterator[Tell]:
    """Show the bars while the block runs; none with --quiet."""
    if OUTPUT.quiet:
        yield lambda what, done, total, note="": None
        return
    progress: Progress | None = None
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int, note: str = "") -> None:
        nonlocal progress
        if progress is None:  # not before, so that an error in what comes first stays the only line
            progress = _progress()
            progress.start()
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total, note=note)
        progress.update(tasks[what], completed=done, total=total, note=note)

    try:
        yield tell
    finally:
        if progress is not None:
            progress.stop()


def _progress() -> Progress:
    """Return the bars; many commands never show one and do without rich's part for them."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
