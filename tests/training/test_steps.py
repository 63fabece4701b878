"""What a step can be told: the optimizer, the loss, clipping, recomputation, batch-norm statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from test_loop import Killed, assert_same, settled
from torch import nn

from nas.blocks.module import Block
from nas.data import ImageData
from nas.network import build, checkpointing
from nas.space import load_space, space_names
from nas.tasks.classify import CLASSIFICATION
from nas.training.loop import train
from nas.training.metrics import Progress
from nas.training.settings import Settings
from nas.training.state import TrainingFolder
from nas.training.step import make_optimizer

OFTEN: dict[str, Any] = {"save_every": 0, "report_every": 5}
OPTIMIZERS = get_args(get_type_hints(Settings)["optimizer"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_resumes_to_the_bit(
    toy: Any, images: ImageData, tmp_path: Path, name: str
) -> None:
    settings = settled(optimizer=name)
    whole = TrainingFolder(tmp_path / "whole")
    cut = TrainingFolder(tmp_path / "cut")
    seen: list[Progress] = []
    train(toy(), images, settings, whole, report=seen.append, **OFTEN)
    assert seen[-1].loss < seen[0].loss

    def kill(progress: Progress) -> None:
        if progress.step == 10:
            raise Killed

    with pytest.raises(Killed):
        train(toy(), images, settings, cut, report=kill, **OFTEN)
    train(toy(), images, settings, cut, **OFTEN)
    assert_same(cut.state, whole.state)


def test_optimizers_are_different_ones() -> None:
    kinds = {name: type(make_optimizer(name, groups())).__name__ for name in OPTIMIZERS}
    assert kinds == {"adamw": "AdamW", "sgd": "SGD", "lamb": "Lamb", "lion": "Lion"}


def groups() -> list[dict[str, Any]]:
    return [{"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.1, "peak": 0.1, "lr": 0.1}]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_may_get_its_first_gradient_later(name: str) -> None:
    """As the blocks of a supernet that the first steps did not draw."""
    early, late = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = make_optimizer(name, [{"params": [early, late], "weight_decay": 0.0, "lr": 0.1}])
    for parameters in ([early], [early, late], [late]):
        optimizer.zero_grad(set_to_none=True)
        for parameter in parameters:
            parameter.grad = torch.ones(2, 2)
        optimizer.step()
    assert bool((early < 1).all()) and bool((late < 1).all())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipped_gradients_have_the_norm_at_most(
    toy: Any, images: ImageData, folder: TrainingFolder, precision: str
) -> None:
    norms: list[float] = []
    task = toy()
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **options: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in gradients if g is not None]).norm()))
        return real(self, *args, **options)

    torch.optim.AdamW.step = step  # type: ignore[method-assign]
    try:
        train(task, images, settled(clip_norm=0.05, precision=precision), folder, **OFTEN)
    finally:
        torch.optim.AdamW.step = real  # type: ignore[method-assign]
    assert norms and max(norms) <= 0.05 * 1.001 and max(norms) > 0.049


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_binary_loss_is_the_mean_over_images_and_classes(smoothing: float) -> None:
    labels = torch.tensor([2, 0])
    wanted = F.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    share = LOGITS.sigmoid()
    expected = -(wanted * share.log() + (1 - wanted) * (1 - share).log()).mean()
    for target in (labels, F.one_hot(labels, 3).float()):
        loss, logits = CLASSIFICATION.loss(LOGITS, target, smoothing, "bce")
        torch.testing.assert_close(loss, expected)
        assert torch.equal(logits, LOGITS)
    two, _ = CLASSIFICATION.loss((LOGITS, LOGITS), labels, smoothing, "bce")
    torch.testing.assert_close(two, expected)


@pytest.mark.parametrize("space", space_names())
def test_recomputation_changes_neither_gradients_nor_statistics(space: str) -> None:
    """Two steps, so that statistics enter: each operation is computed twice in the second way."""
    arch = load_space(space).smallest().at((32, 32), 4)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    states = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = build(arch).train()
        calls: list[str] = []
        for block in network.children():
            assert isinstance(block, Block)
            block.register_forward_pre_hook(lambda *_, calls=calls: calls.append("called"))
        for _ in range(2):
            if recompute:
                with checkpointing():
                    output = network(images)
            else:
                output = network(images)
            loss, _ = CLASSIFICATION.loss(output, torch.tensor([0, 1, 2, 3]))
            loss.backward()
        states.append((network, len(calls)))
    (plain, once), (again, twice) = states
    # The last operation is not always computed again: the backward pass stops once it has all.
    assert 2 * once - 4 <= twice <= 2 * once and twice > once
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        assert ours.grad is None if theirs.grad is None else torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    for (name, ours), theirs in zip(again.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_recomputation_in_the_loop_gives_the_same_weights(
    toy: Any, images: ImageData, tmp_path: Path
) -> None:
    states = []
    for checkpoint in (False, True):
        folder = TrainingFolder(tmp_path / str(checkpoint))
        train(toy(), images, settled(checkpointing=checkpoint), folder, **OFTEN)
        states.append(folder.state)
    assert_same(*states)
