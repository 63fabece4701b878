"""Progress bars with the time left, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from nas.cli.common import OUTPUT

if TYPE_CHECKING:
    from nas.training.metrics import Progress as TrainingRow


class Tell(Protocol):
    """Tells what is being done, how many are done, how many there are, and how it goes; each `what` has its bar."""

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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int, note: str = "") -> None:
        if not tasks:  # not before, so that an error in what comes first stays the only line
            progress.start()
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total, note=note)
        progress.update(tasks[what], completed=done, total=total, note=note)

    try:
        yield tell
    finally:
        if tasks:
            progress.stop()
