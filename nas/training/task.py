"""Interface of a training's task, and the cross-entropy of networks with one head or two.

`nas.training.loop` calls a task; `nas.supernet.train` and `nas.finetune.task` define one each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy(
    output: Tensor | tuple[Tensor, Tensor], target: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the mean loss over the heads, and their mean logits (B, classes).

    Args:
        output: logits (B, classes) of one head, or a pair of these.
        target: classes (B,) or probabilities (B, classes).
        smoothing: of the labels.
    """
    heads = output if isinstance(output, tuple) else (output,)
    # In float32, also where autocast gives logits in half precision.
    losses = [
        F.cross_entropy(logits.float(), target, label_smoothing=smoothing) for logits in heads
    ]
    # (heads, B, classes) to (B, classes).
    return torch.stack(losses).mean(), torch.stack(heads).float().mean(dim=0)


class Task(ABC):
    """A module with its losses.

    The loop calls `begin` once, `before_step` and `loss` in each step, and `log` at each report.
    A task must not draw from torch's global generator. Random choices of a step come from the
    generator that `loss` gets, so that all processes draw the same and a resumed training repeats
    it.
    """

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Return the module to train: everything to be saved, and nothing else (no teacher)."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups for AdamW, each with `params`, `weight_decay` and `peak`.

        `peak` is the highest learning rate of the training.
        """

    @abstractmethod
    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        labels_b: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss over a micro-batch, and the logits (B, classes) for the accuracy.

        It runs under autocast.

        Args:
            module: the module, in training mode.
            images_bchw: float, augmented and normalised, on the module's device.
            labels_b: int64.
            step: steps done before this one.
            generator: on the CPU, in the same state for every micro-batch and process of the step.
        """

    @property
    def save_steps(self) -> int:
        """Return the step interval of saved states; the last step's is saved in any case."""
        return 1

    def begin(self, step: int) -> None:  # noqa: B027 (most tasks keep nothing)
        """Prepare the task's own files before the first step, when `step` steps are done.

        Entries of later steps must be dropped: these steps are done again. Called on the main
        process only.
        """

    def before_step(self, step: int) -> None:  # noqa: B027
        """Prepare a step, when `step` steps are done. Called on all processes."""

    def log(self, step: int) -> dict[str, float]:
        """Return more columns for metrics.csv after `step` steps, on the main process only."""
        return {}
