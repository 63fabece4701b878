"""Metrics of a training while it runs: rows of metrics.csv, and the same as TensorBoard events.

`nas.training.loop` writes them; `nas.supernet.train` appends its alpha.csv in the same way.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nas.csv_files import Writer, count_in, strict_records
from nas.files import replacing, unwritable, write_text
from nas.journals import append_text, read_whole


@dataclass(frozen=True)
class Progress:
    """One row of metrics.csv: means over the steps since the last row.

    Attributes:
        step, steps: steps done, and steps of the whole training.
        epoch: epochs done.
        loss: mean loss; NaN where every step was skipped.
        accuracy: share of right images among augmented training images in percent (of right pixels
            where they have masks); for a supernet, that of the sampled networks. It shows that the
            training works and is not a result.
        learning_rate: of the weights, in the last step.
        images_per_second: over all processes.
        held_out: the task's metric on held-out images in percent; None where the row ends no evaluated epoch.
        more: the task's own columns.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float
    learning_rate: float
    images_per_second: float
    held_out: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float | None]:
        """Return the columns of the row by name."""
        values = asdict(self)
        more = values.pop("more")
        return {**values, **more}


class Log:
    """The writer of metrics.csv and the event files of a training's folder."""

    def __init__(self, metrics: Path, events: Path, step: int) -> None:
        """Open the files and drop the rows after `step`, which is the last step of the saved state.

        They belong to steps that a killed training did not save; these steps are repeated.
        """
        from torch.utils.tensorboard import SummaryWriter

        truncate(metrics, step)
        add_column(metrics, "held_out", after="images_per_second")
        self.metrics = metrics
        self.events = events
        self._hook = threading.excepthook
        threading.excepthook = self._report
        # TensorBoard hides events of earlier files from this step on.
        with _written(events):
            self.writer = SummaryWriter(str(events), purge_step=step + 1)

    def write(self, progress: Progress) -> None:
        """Append a row to metrics.csv and to the event files."""
        row = progress.row()
        append(self.metrics, [row])
        with _written(self.events):
            for name, value in row.items():
                if name not in ("step", "steps") and value is not None:
                    self.writer.add_scalar(name, value, progress.step)
            self.writer.flush()

    def close(self) -> None:
        """Close the event files."""
        try:
            with _written(self.events):
                self.writer.close()
        finally:
            threading.excepthook = self._hook

    def _report(self, args: threading.ExceptHookArgs) -> None:
        """Report an error of a thread, unless TensorBoard's: its next call raises the same error."""
        if not type(args.thread).__module__.startswith("tensorboard"):
            self._hook(args)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Context manager: an error of the system while `path` is written becomes one line."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a CSV file, with a header where the file is new or empty.

    Raises:
        NasError: when it cannot be written.
    """
    new = not path.exists() or path.stat().st_size == 0
    append_text(path, pd.DataFrame(rows).to_csv(header=new, index=False), kept="saved")


def add_column(path: Path, name: str, after: str) -> None:
    """Give a CSV file of an older version an empty column, so that new rows fit its header."""
    if path.exists():
        rows = pd.read_csv(path)
        if name not in rows:
            rows.insert(list(rows).index(after) + 1, name, math.nan)
            with replacing(path) as temporary:
                rows.to_csv(temporary, index=False)


def truncate(path: Path, step: int) -> None:
    """Drop the rows after a step from a CSV file, if it exists.

    A full disk may have left the file without its header, or without the end of its last row.
    """
    text = read_whole(path)
    if not text:
        path.unlink(missing_ok=True)
        return
    # The texts as they are: to read and write a number anew could change its last digit.
    rows = [
        record
        for number, record in strict_records(path, text, ("step",))
        if count_in(f"{path}:{number}", "step", record["step"]) <= step
    ]
    if not rows:
        path.unlink(missing_ok=True)
        return
    kept = io.StringIO()
    writer = Writer(kept)
    writer.row(rows[0])
    writer.rows(record.values() for record in rows)
    # Replaced as a whole: a kill leaves either the old file or the new one.
    write_text(path, kept.getvalue())
