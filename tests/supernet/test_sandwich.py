"""Sandwich sampling: who is trained by what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.supernet.choices import GumbelSoftmax
from nas.supernet.supernet import Supernet
from nas.supernet.train import sandwich_loss

Make = Callable[..., Supernet]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 64, 64, generator=generator), torch.randint(
        10, (8,), generator=generator
    )


def mean_logits(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack(output).mean(dim=0) if isinstance(output, tuple) else output


def test_the_loss_is_the_largests_on_labels_and_the_others_on_its_answers(
    small_supernet: Make,
) -> None:
    supernet = small_supernet()
    images, labels = batch()
    calls: list[Tensor] = []

    def random() -> Tensor | tuple[Tensor, Tensor]:
        output = supernet(images, GumbelSoftmax(1.0), torch.Generator().manual_seed(len(calls)))
        calls.append(mean_logits(output))
        return output

    loss, logits = sandwich_loss(supernet, images, labels, 0.1, 2, random)
    largest = mean_logits(supernet.forward_sliced(images, supernet.space.largest()))
    smallest = mean_logits(supernet.forward_sliced(images, supernet.space.smallest()))
    assert len(calls) == 2
    torch.testing.assert_close(logits, largest)
    taught = largest.softmax(dim=1)
    wanted = [F.cross_entropy(largest, labels, label_smoothing=0.1)]
    wanted += [
        -(taught * answer.log_softmax(dim=1)).sum(dim=1).mean() for answer in (smallest, *calls)
    ]
    torch.testing.assert_close(loss, torch.stack(wanted).mean())


@pytest.mark.parametrize("randoms", [0, 1])
def test_alpha_follows_the_random_members_and_the_teacher_is_not_taught(
    small_supernet: Make, randoms: int
) -> None:
    supernet = small_supernet().train()
    images, labels = batch()
    smooth = torch.full_like(labels, 3)
    random = lambda: supernet(images, GumbelSoftmax(1.0), torch.Generator().manual_seed(1))  # noqa: E731
    sandwich_loss(supernet, images, smooth, 0.0, randoms, random)[0].backward()
    touched = {
        name
        for name, alpha in supernet.alphas().items()
        if alpha.grad is not None and alpha.grad.any()
    }
    assert touched == (set(supernet.alphas()) if randoms else set())
    assert supernet.get_submodule("stem").get_parameter("first.conv.weight").grad is not None
