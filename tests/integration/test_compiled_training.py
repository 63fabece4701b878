"""Training with compiled blocks: the same as without, but for rounding."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import ConvStem, DSConv, Shape
from nas.blocks.build import build_block
from nas.blocks.drop_path import MOST_BRANCHES, block_factors
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


def test_a_compiled_block_leaves_out_its_branches() -> None:
    """Without breaking its graph: factors are one of its inputs."""
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    compiled = build_block(DSConv(), Shape(8, 4, 4)).train()
    plain = deepcopy(compiled)
    compiled.compile()
    x = torch.randn(3, 8, 4, 4)
    keeps = torch.tensor([1.0, 0.0, 2.0]).repeat(MOST_BRANCHES, 1)
    for factors in (None, keeps, None, keeps.flip(1)):
        outputs = []
        for block in (compiled, plain):
            with nullcontext() if factors is None else block_factors(factors):
                outputs.append(block(x))
        torch.testing.assert_close(*outputs)
        assert factors is None or torch.equal(outputs[0][1], x[1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]
