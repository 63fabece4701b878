"""What a training tells while it runs: rows of metrics.csv, and the same as TensorBoard event
files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nas.files import replacing


@dataclass(frozen=True)
class Progress:
    """One row of metrics.csv: means over the steps since the last row.

    `accuracy` is that on augmented training images (of a supernet that of the sampled networks), in
    percent: a sign of life, not a result. `more` has the task's own columns.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float
    learning_rate: float
    images_per_second: float
    more: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        values = asdict(self)
        more = values.pop("more")
        return {**values, **more}


class Log:
    """metrics.csv and the event files of a training's folder."""

    def __init__(self, metrics: Path, events: Path, step: int) -> None:
        """Go on after `step`: what is there of later steps belongs to work that a killed training
        had not saved."""
        from torch.utils.tensorboard import SummaryWriter

        truncate(metrics, step)
        self.metrics = metrics
        self.writer = SummaryWriter(str(events), purge_step=step + 1)

    def write(self, progress: Progress) -> None:
        row = progress.row()
        append(self.metrics, [row])
        for name, value in row.items():
            if name not in ("step", "steps"):
                self.writer.add_scalar(name, value, progress.step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a CSV file, with a header where the file is new."""
    pd.DataFrame(rows).to_csv(path, mode="a", header=not path.exists(), index=False)


def truncate(path: Path, step: int) -> None:
    """Drop the rows after a step from a CSV file, where there is one."""
    if path.exists():
        rows = pd.read_csv(path)
        with replacing(path) as temporary:
            rows[rows["step"] <= step].to_csv(temporary, index=False)
