"""Small members and run folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

import nas
from nas.runs.schema import ARCHITECTURE_FILE, WEIGHTS_FILE, WEIGHTS_FORMAT
from nas.space import Architecture, published_members


@pytest.fixture
def tiny() -> Callable[..., Architecture]:
    """A function from a published member's name to it with the first and the last block of each
    stage, 7 classes."""

    def make(name: str, resolution: int | tuple[int, int] = 64, classes: int = 7) -> Architecture:
        arch = published_members()[name].at(resolution, classes)
        stages = tuple(
            replace(
                stage,
                blocks=stage.blocks[:1] + stage.blocks[-1:] if stage.depth > 1 else stage.blocks,
            )
            for stage in arch.stages
        )
        return replace(arch, stages=stages)

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function from an architecture to a folder with it, and with weights where wanted."""

    def make(arch: Architecture, weights: bool = True, name: str = "run") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        arch.save(folder / ARCHITECTURE_FILE)
        if weights:
            save_file(
                nas.build(arch).state_dict(), folder / WEIGHTS_FILE, {"format": WEIGHTS_FORMAT}
            )
        return folder

    return make
