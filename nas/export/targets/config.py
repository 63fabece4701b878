"""The architecture as a YAML file that anyone can read and `nas.load_architecture` loads."""

from __future__ import annotations

from pathlib import Path

from nas.export.target import Model, Target
from nas.runs.schema import ARCHITECTURE_FILE


def write(model: Model, path: Path) -> None:
    model.architecture.save(path)


TARGET = Target(ARCHITECTURE_FILE, write, weights=False)
