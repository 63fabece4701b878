"""A small task to train, and images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import ImageData
from nas.training.state import TrainingFolder
from nas.training.task import Task


class Toy(Task):
    """A convolution, a batch norm if wanted, and a classifier. `spoil` may change the loss of a
    step."""

    def __init__(
        self, norm: bool = True, spoil: Callable[[int, Tensor], Tensor] = lambda step, loss: loss
    ) -> None:
        torch.manual_seed(0)
        self.spoil = spoil
        layers = [
            nn.Conv2d(3, 8, 4, 4, bias=False),
            *([nn.BatchNorm2d(8)] if norm else []),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 4),
        ]
        self.layers = nn.Sequential(*layers)
        self.began: list[int] = []

    @property
    def module(self) -> nn.Module:
        return self.layers

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.layers.parameters()), "weight_decay": 0.05, "peak": 0.01}]

    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        labels_b: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        logits = module(images_bchw * (0.9 + 0.2 * torch.rand((), generator=generator)))
        return self.spoil(step, F.cross_entropy(logits.float(), labels_b)), logits

    def begin(self, step: int) -> None:
        self.began.append(step)

    def log(self, step: int) -> dict[str, float]:
        return {"double": 2.0 * step}


@pytest.fixture
def toy() -> type[Toy]:
    return Toy


@pytest.fixture
def folder(tmp_path: Path) -> TrainingFolder:
    return TrainingFolder(tmp_path / "out")


@pytest.fixture
def images() -> ImageData:
    """Of four classes, each of its own brightness."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 100)
    pixels = (rng.integers(0, 80, (100, 3, 16, 16)) + 50 * labels[:, None, None, None]).astype(
        np.uint8
    )
    return ImageData(pixels, labels, ("a", "b", "c", "d"), 0, "made up", "0")
