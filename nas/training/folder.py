"""The files of a training that its loop writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingFolder:
    """The paths of a training's folder, as far as the loop knows them.

    state.safetensors   weights, optimizer moments, moving averages; its header has the step
    metrics.csv         loss, accuracy, rates and images a second by step
    tensorboard/        the same as TensorBoard event files
    """

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.safetensors"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"
