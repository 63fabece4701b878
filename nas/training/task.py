"""Task: what the loop trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Task(ABC):
    """A module with its losses. The loop calls `begin` once, then in each step `before_step` and `loss`, and `log` now
    and then.

    Nothing random may come from torch's global generator: what a step draws comes from the generator that `loss` gets,
    so that all processes draw the same and a resumed training repeats it.
    """

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What is trained: everything that is to be saved, and nothing else (no teacher)."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, each with `params`, `weight_decay` and `peak`, the learning rate at its peak."""

    @abstractmethod
    def loss(
        self, module: nn.Module, images_bchw: Tensor, labels_b: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The mean loss over a micro-batch, and the logits (B, classes) to judge by. Runs under autocast.

        Args:
            module: the module, in training mode.
            images_bchw: float, augmented and normalised, on the module's device.
            labels_b: int64.
            step: steps done before this one.
            generator: on the CPU, in the same state for every micro-batch and process of the step.
        """

    @property
    def save_steps(self) -> int:
        """States are saved after multiples of so many steps only (and after the last)."""
        return 1

    def begin(self, step: int) -> None:  # noqa: B027 (most tasks keep nothing)
        """Before the first step, when `step` steps are done: what files of its own say of later steps is to go.

        On the main process only.
        """

    def before_step(self, step: int) -> None:  # noqa: B027
        """Before each step, when `step` steps are done."""

    def log(self, step: int) -> dict[str, float]:
        """More columns for metrics.csv after `step` steps. On the main process only."""
        return {}
