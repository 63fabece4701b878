"""Sandwich sampling with in-place distillation: each step trains the ends of the space and what lies between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.supernet.supernet import Supernet
from nas.training.losses import cross_entropy

Output = Tensor | tuple[Tensor, Tensor]


def sandwich_loss(
    supernet: Supernet, images_bchw: Tensor, labels_b: Tensor, smoothing: float, randoms: int,
    random: Callable[[], Output],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The mean loss of the largest member, the smallest and `randoms` random ones, and the largest one's logits.

    The sandwich rule and in-place distillation of universally slimmable networks (arXiv:1903.05134): the largest
    member learns the labels, the others its probabilities as they are in this step. The architecture parameters follow
    the random members, the only ones that are drawn by them.

    Args:
        supernet: in training mode.
        images_bchw, labels_b: a micro-batch.
        smoothing: of the labels.
        randoms: how many random members.
        random: the output of another one at each call.
    """
    loss, logits = cross_entropy(supernet.forward_sliced(images_bchw, supernet.space.largest()), labels_b, smoothing)
    losses, taught = [loss], logits.detach().softmax(dim=1)
    losses.append(cross_entropy(supernet.forward_sliced(images_bchw, supernet.space.smallest()), taught)[0])
    losses += [cross_entropy(random(), taught)[0] for _ in range(randoms)]
    return torch.stack(losses).mean(), logits
