"""Output of all commands: JSON, text or tables on stdout, progress and notes on stderr.

A table's column is as wide as its content. The text is the same on a terminal and in a pipe.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Protocol

from nas.display import printable, printable_lines

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress, TaskID

    from nas.space.sizes import Sizes
    from nas.training.metrics import Progress as TrainingRow


@dataclass
class Output:
    """Settings of the running command's output, made by `--json` and `--quiet`."""

    as_json: bool = False
    quiet: bool = False


OUTPUT = Output()
"""Settings of this process, which runs one command at a time."""


def set_output(as_json: bool = False, quiet: bool = False) -> None:
    """Set how the running command prints."""
    OUTPUT.as_json = as_json
    OUTPUT.quiet = quiet


def say(text: str = "") -> None:
    """Print progress or a note on stderr, so that stdout has only the result.

    Only the first process of a `torchrun` prints, and none with `--quiet`.
    """
    if os.environ.get("RANK", "0") == "0" and not OUTPUT.quiet:
        print(printable_lines(text), file=sys.stderr, flush=True)


def emit(document: dict[str, Any] | list[Any], text: str) -> None:
    """Print the command's result on stdout: `document` with --json, else `text`."""
    print(json.dumps(document, indent=2) if OUTPUT.as_json else printable_lines(text), flush=True)


def next_step(command: str) -> None:
    """Print the command that is the next step of the work."""
    say(f"next: {command}")


def named_folder(folder: Path) -> str:
    """Return a table's folder as `--device` takes it: a name without a slash is a device's."""
    return str(folder) if len(folder.parts) > 1 else f"./{folder}"


@contextmanager
def naming(sizes: Sizes) -> Iterator[None]:
    """Add the options of `sizes` to the remedy of a `MissingRows` error that the block raises.

    The remedy is the command that measures the missing rows. It must measure at these sizes.
    """
    from nas.latency import MissingRows

    try:
        yield
    except MissingRows as error:
        raise MissingRows(" ".join([str(error), *sizes.options()]), error.operations) from None


class Tell(Protocol):
    """A function that reports progress: `done` of `total` steps of `what`, with a note.

    Each `what` has its own bar.
    """

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


def training_note(row: TrainingRow) -> str:
    """Return the state of a training as text, shown beside its progress bar."""
    held_out = "" if row.held_out is None else f"  held-out {row.held_out:.1f} %"
    return f"epoch {row.epoch:.1f}  loss {row.loss:.3f}  {row.images_per_second:.0f} images/s{held_out}"


LINE_EVERY_S = 60.0
"""Seconds between two lines of progress where stderr is not a terminal."""


class ProgressLines:
    """Progress as lines of a log: the first step of each kind of work, one per minute, the last."""

    def __init__(self) -> None:
        self._printed: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        due = now - self._printed.get(what, -math.inf) >= LINE_EVERY_S
        if due or done == total:
            self._printed[what] = now
            say(f"{what}: {done}/{total}{'  ' if note else ''}{note}")


@contextmanager
def bars() -> Iterator[Tell]:
    """Yield the function that shows progress: as bars on a terminal, else as lines.

    With --quiet it prints nothing.
    """
    if OUTPUT.quiet:
        yield lambda what, done, total, note="": None
        return
    if not sys.stderr.isatty():
        yield ProgressLines()
        return
    progress: Progress | None = None
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int, note: str = "") -> None:
        nonlocal progress
        # Started at the first call, so that an error before it is the only line on the screen.
        if progress is None:
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
    """Return rich's progress bars, imported here because many commands never show one."""
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


_WIDEST = 100_000
"""Characters per line, more than any table has, so that rich never cuts or wraps one."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its title.
        right: whether its cells are aligned right, as numbers are.
        width: minimum width in characters. Rows that are printed one by one need it to line up.
    """

    title: str = ""
    right: bool = False
    width: int = 0


def table_text(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], header: bool = True
) -> str:
    """Return rows as text, one line per row, under the titles of their columns.

    Control characters in cells are escaped, and cells are never read as markup.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        box=None, show_header=header, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        grid.add_column(
            Text(printable(column.title)),
            justify="right" if column.right else "left",
            min_width=column.width or None,
            no_wrap=True,
        )
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    screen = StringIO()
    Console(file=screen, width=_WIDEST, color_system=None, legacy_windows=False).print(grid)
    return "\n".join(line.rstrip() for line in screen.getvalue().splitlines())


def row_text(columns: Sequence[Column], cells: Sequence[str]) -> str:
    """Return one row of a table whose columns have fixed widths."""
    return table_text(columns, [cells], header=False)
