"""Zero-cost proxies: scores of networks that nobody trained. `benchmarks/ranking.py` calls them.

Each takes a network with random weights and batches of images, and returns a number that should
rank networks as their accuracies after training do. They are written from their papers' definitions:
PyPI's package of them (alethiometer) had its last release in May 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.blocks.module import ACTIVATIONS
from nas.data import ImageData
from nas.training.batches import normalise

Batch = tuple[Tensor, Tensor]
"""Images (B, C, H, W) and labels (B,)."""
Proxy = Callable[[nn.Module, Sequence[Batch]], float]


def batches_of(data: ImageData, count: int, size: int) -> list[Batch]:
    """Return the first batches of images, normalised as in a training and not augmented."""
    # The order of the images is stratified, so every batch has every class.
    return [
        (
            normalise(torch.from_numpy(np.array(data.images[start : start + size]))),
            torch.as_tensor(np.array(data.labels[start : start + size]), dtype=torch.int64),
        )
        for start in range(0, count * size, size)
    ]


def logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the logits (B, classes); a distillation head gives a pair of them in training mode."""
    return output if isinstance(output, Tensor) else torch.stack(output).mean(dim=0)


def synflow(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the logarithm of the synaptic flow.

    Tanaka et al. 2020 (arXiv:2006.05467): R = 1' f(1; |theta|), the summed output
    of the network with absolute weights for an input of ones, and the score is the sum over all
    weights of theta * dR/dtheta. Of the images only the shape is used. Batch norms are skipped, as
    in Abdelfattah et al. 2021 (arXiv:2101.08134): with them R would not depend on the scale
    of the weights before them.
    """
    # Double precision: the flow multiplies over layers and overflows single precision.
    positive = deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    ones = torch.ones(1, *batches[0][0].shape[1:], dtype=torch.float64)
    with without_batch_norms(positive):
        logits(positive(ones)).sum().backward()
    flow = sum(
        float((parameter.detach() * parameter.grad).abs().sum())
        for parameter in positive.parameters()
        if parameter.grad is not None
    )
    return math.log(flow) if flow > 0 else -math.inf


@contextmanager
def without_batch_norms(network: nn.Module) -> Iterator[None]:
    """Context manager: batch norms return their input."""
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: inputs[0])
        for module in network.modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def naswot(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the logarithm of the determinant of the kernel of activation codes.

    Mellor et al. 2021 (arXiv:2006.04647): c_i has a bit per rectified unit, 1 where
    the unit is active for image i; K_ij = N_A - d_H(c_i, c_j), the number of units minus the
    Hamming distance; the score is log |det K|. It was defined for ReLU. Here a unit of any
    activation counts as active where its input is positive, as GELU and SiLU pass on what is. Only
    the first batch is used.
    """
    images = batches[0][0]
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        codes = (inputs[0].detach() > 0).flatten(1).float()  # (B, units)
        # Units on which two codes agree: both active, or both not.
        kernel.add_((codes @ codes.T + (1 - codes) @ (1 - codes).T).double())

    kinds = tuple({type(make()) for make in ACTIVATIONS.values()} - {nn.Identity})
    hooks = [
        module.register_forward_hook(add)
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    network.train()
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.linalg.slogdet(kernel).logabsdet)


def zico(network: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the inverse coefficient of variation of gradients, summed over layers.

    Li et al. 2023 (arXiv:2301.11300): the sum over convolutions and linear layers l of

        log( sum over weights w of l of  E[ |dL/dw| ] / sqrt( Var( |dL/dw| ) ) )

    with mean and variance over batches of images, at the initial weights. Weights whose gradient
    does not vary are left out, and so are layers without others. It needs two batches or more.
    """
    weights = [
        module.weight
        for module in network.modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    ]
    sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    squares = [torch.zeros_like(total) for total in sums]
    network.train()
    for images, labels in batches:
        network.zero_grad()
        F.cross_entropy(logits(network(images)), labels).backward()
        for weight, total, square in zip(weights, sums, squares, strict=True):
            if weight.grad is not None:
                size = weight.grad.double().abs()
                total += size
                square += size**2
    network.zero_grad()
    score = 0.0
    for total, square in zip(sums, squares, strict=True):
        mean = total / len(batches)
        deviation = (square / len(batches) - mean**2).clamp(min=0).sqrt()
        varies = deviation > 1e-9 * mean
        if varies.any():
            score += math.log(float((mean[varies] / deviation[varies]).sum()))
    return score


PROXIES: Mapping[str, Proxy] = {"synflow": synflow, "naswot": naswot, "zico": zico}
