"""How a choice is drawn from its architecture parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Noise = Literal["uniform", "gumbel", "none"]
Sampling = Literal["soft", "straight_through"]


@dataclass(frozen=True)
class GumbelSoftmax:
    """Weights over candidates: softmax((alpha + noise) / temperature).

    EfficientFormer (arXiv:2206.01191), Sec. 4.2, writes the formula with noise drawn from U(0, 1) and calls it
    Gumbel-softmax; the noise of that name (arXiv:1611.01144) is -log(-log U). Both are offered.

    Attributes:
        temperature: towards 0 the weights become one-hot.
        noise: uniform, gumbel, or none.
        sampling: soft mixes all candidates; straight_through takes the likeliest alone and passes the gradient of the
            soft weights, so that one candidate is computed.
    """

    temperature: float
    noise: Noise = "uniform"
    sampling: Sampling = "soft"

    def __call__(self, alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Weights (candidates,) that sum to 1."""
        soft = ((alpha + self._noise(alpha, generator)) / self.temperature).softmax(dim=0)
        if self.sampling == "soft":
            return soft
        hard = torch.zeros_like(soft).index_fill_(0, soft.argmax(), 1.0)
        return hard + (soft - soft.detach())

    def _noise(self, alpha: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.noise == "none":
            return torch.zeros_like(alpha)
        # Drawn on the CPU, so that a seed gives the same choices on every device.
        uniform = torch.rand(alpha.shape, generator=generator)
        tiny = torch.finfo(uniform.dtype).tiny
        noise = uniform if self.noise == "uniform" else -torch.log(-torch.log(uniform.clamp_min(tiny)))
        return noise.to(alpha)


@dataclass(frozen=True)
class TemperatureSchedule:
    """Exponential decay from `start` to `end` over a training."""

    start: float = 5.0
    end: float = 0.5

    def at(self, progress: float) -> float:
        """The temperature when this share (0 to 1) of the training is done."""
        return self.start * math.exp(progress * math.log(self.end / self.start))
