"""Training with compiled blocks: the same as without, but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import ConvStem, Shape
from nas.blocks.build import build_block
from nas.data import ImageData
from nas.training.loop import train
from nas.training.metrics import Progress
from nas.training.settings import Settings
from nas.training.state import TrainingFolder
from nas.training.task import Task

pytestmark = pytest.mark.slow


class OneBlock(Task):
    """A stem and a classifier."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        stem = build_block(ConvStem(8), Shape(3, 16, 16))
        self.layers = nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    @property
    def module(self) -> nn.Module:
        return self.layers

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.layers.parameters()), "weight_decay": 0.05, "peak": 0.001}]

    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        labels_b: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        logits = module(images_bchw)
        return F.cross_entropy(logits, labels_b), logits


def test_compiled_blocks_train_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 3, 16, 16)).astype(np.uint8)
    data = ImageData(pixels, rng.integers(0, 4, 32), ("a", "b", "c", "d"), 0, "noise", "0")
    losses: dict[bool, list[float]] = {True: [], False: []}
    for compiled, told in losses.items():
        torch._dynamo.utils.counters.clear()

        def note(progress: Progress, told: list[float] = told) -> None:
            told.append(progress.loss)

        settings = Settings(epochs=3, batch=16, warmup=0.1, compile=compiled, ema=0.9)
        train(
            OneBlock(),
            data,
            settings,
            TrainingFolder(tmp_path / str(compiled)),
            report=note,
            report_every=1,
        )
        assert bool(torch._dynamo.utils.counters["stats"]["unique_graphs"]) == compiled
    assert losses[True] == pytest.approx(losses[False], abs=1e-3)
