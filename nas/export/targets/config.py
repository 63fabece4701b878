"""Target `config`: the architecture as a YAML file for people and `nas.load_architecture`."""

from __future__ import annotations

from pathlib import Path

from nas.export.target import Model, Target
from nas.runs.schema import ARCHITECTURE_FILE


def write(model: Model, path: Path) -> None:
    model.architecture.save(path)


TARGET = Target(ARCHITECTURE_FILE, write, weights=False)
