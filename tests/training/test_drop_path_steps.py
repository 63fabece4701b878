"""Drop path in the loop: the same images skip the same branches however a batch is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import Killed, assert_same, settled
from torch import Tensor, nn

from nas.blocks.drop_path import DropPath
from nas.data import ImageData
from nas.errors import InputError
from nas.network import build
from nas.space import load_space
from nas.tasks.classify import CLASSIFICATION
from nas.training.loop import train
from nas.training.metrics import Progress
from nas.training.settings import Settings
from nas.training.state import TrainingFolder
from nas.training.task import Task

OFTEN: dict[str, Any] = {"save_every": 0, "report_every": 5}


class Small(Task):
    """A small network of blocks with branches."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = build(load_space("emo").smallest().at((32, 32), 4))

    @property
    def module(self) -> nn.Module:
        return self.network

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters()), "weight_decay": 0.05, "peak": 0.003}]

    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        labels_b: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        return CLASSIFICATION.loss(module(images_bchw), labels_b)


@pytest.fixture
def pictures(images: ImageData) -> ImageData:
    """40 of the images, enlarged to 32x32."""
    large = images.images[:40].repeat(2, axis=2).repeat(2, axis=3)
    return ImageData(large, images.labels[:40], images.classes, 0, "made up", "0")


def short(**options: Any) -> Settings:
    return settled(**{"epochs": 2, "batch": 10, "drop_path": 0.4, **options})


def factors_of(
    pictures: ImageData, folder: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> list[Tensor]:
    """Return the factors of each step, those of its micro-batches joined."""
    drawn: list[Tensor] = []
    real = DropPath.factors

    def noted(self: DropPath, blocks: int, device: torch.device) -> Tensor:
        drawn.append(real(self, blocks, device))
        return drawn[-1]

    with monkeypatch.context() as patched:
        patched.setattr(DropPath, "factors", noted)
        train(Small(), pictures, short(accumulate=accumulate), TrainingFolder(folder), **OFTEN)
    return [torch.cat(drawn[i : i + accumulate], dim=2) for i in range(0, len(drawn), accumulate)]


def test_micro_batches_have_the_factors_of_the_batch(
    pictures: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = factors_of(pictures, tmp_path / "one", monkeypatch, 1)
    three = factors_of(pictures, tmp_path / "three", monkeypatch, 3)
    assert len(one) == len(three) == 8
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, three, strict=True))
    assert not torch.equal(one[0], one[1]), "two steps left out the same branches"


def test_a_killed_training_ends_with_the_same_state(pictures: ImageData, tmp_path: Path) -> None:
    whole, cut, again, plain = (TrainingFolder(tmp_path / name) for name in "abcd")
    train(Small(), pictures, short(), whole, **OFTEN)

    def kill(progress: Progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(Small(), pictures, short(), cut, report=kill, **OFTEN)
    torch.manual_seed(99)  # what the rest of the program draws does not matter
    train(Small(), pictures, short(), cut, **OFTEN)
    assert_same(cut.state, whole.state)
    # Recomputation leaves out the same branches. Without drop path the weights are others.
    train(Small(), pictures, short(checkpointing=True), again, **OFTEN)
    assert_same(again.state, whole.state)
    train(Small(), pictures, short(drop_path=0), plain, **OFTEN)
    with pytest.raises(AssertionError):
        assert_same(plain.state, whole.state)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match=r"drop.path"):
        Settings(drop_path=rate)
