"""What a training trains: the interface of a task, and the cross-entropy of networks with one head
or two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy(
    output: Tensor | tuple[Tensor, Tensor], target: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the mean over both heads where there are two, and the logits (B, classes) to judge by,
    their mean.

    `target` is classes (B,) or probabilities (B, classes).
    """
    heads = output if isinstance(output, tuple) else (output,)
    losses = [
        F.cross_entropy(logits.float(), target, label_smoothing=smoothing) for logits in heads
    ]
    return torch.stack(losses).mean(), torch.stack(heads).float().mean(dim=0)


class Task(ABC):
    """A module with its losses. The loop calls `begin` once, then in each step `before_step` and
    `loss`, and `log` now and then.

    Nothing random may come from torch's global generator: what a step draws comes from the
    generator that `loss` gets, so that all processes draw the same and a resumed training repeats
    it.
    """

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Return what is trained: everything that is to be saved, and nothing else (no teacher)."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for AdamW, each with `params`, `weight_decay` and `peak`, the learning rate
        at its peak."""

    @abstractmethod
    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        labels_b: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss over a micro-batch, and the logits (B, classes) to judge by. Runs
        under autocast.

        Args:
            module: the module, in training mode.
            images_bchw: float, augmented and normalised, on the module's device.
            labels_b: int64.
            step: steps done before this one.
            generator: on the CPU, in the same state for every micro-batch and process of the step.
        """

    @property
    def save_steps(self) -> int:
        """Return states are saved after multiples of so many steps only (and after the last)."""
        return 1

    def begin(self, step: int) -> None:  # noqa: B027 (most tasks keep nothing)
        """Before the first step, when `step` steps are done: what files of its own say of later
        steps is to go.

        On the main process only.
        """

    def before_step(self, step: int) -> None:  # noqa: B027
        """Before each step, when `step` steps are done."""

    def log(self, step: int) -> dict[str, float]:
        """Return more columns for metrics.csv after `step` steps. On the main process only."""
        return {}
