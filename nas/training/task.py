"""Interface of what a training trains: a module, its losses, and how it is evaluated.

`nas.training.loop` calls a task; `nas.supernet.train` and `nas.finetune.task` define one each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from nas import tasks


class Task(ABC):
    """A module with its losses.

    The loop calls `begin` once, `before_step` and `loss` in each step, and `log` at each report.
    What its network answers, the loss and the metric are those of its `goal`, a task of `nas.tasks`.

    A task must not draw from torch's global generator. Random choices of a step come from the
    generator that `loss` gets, so that all processes draw the same and a resumed training repeats
    it.
    """

    @property
    def goal(self) -> tasks.Task:
        """Return what the network is trained for; classification by default."""
        return tasks.TASKS["classification"]

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
        targets: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss over a micro-batch, and the scores for the accuracy.

        The scores are (B, classes), or (B, classes, h, w) of a head of dense prediction.

        It runs under autocast.

        Args:
            module: the module, in training mode.
            images_bchw: float, augmented, mixed and normalised, on the module's device.
            targets: classes (B,) as int64, probabilities (B, classes) where images are mixed, or
                masks (B, H, W) as int64.
            step: steps done before this one.
            generator: on the CPU, in the same state for every micro-batch and process of the step.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return what a saved state needs beyond the module, by name; by default nothing.

        It is what steps depend on and weights do not tell. `restore` gets it back.
        """
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027
        """Take what `tensors` returned when the state was saved, on the CPU; empty in old states."""

    @property
    def keeps_best(self) -> bool:
        """Return whether the weights of the best epoch are kept beside those of the last one."""
        return False

    def evaluate(self, module: nn.Module) -> float | None:
        """Return the metric in percent on held-out images, or None where there are none.

        Called after an epoch on all processes, which share the work and all get the result. `module`
        is `self.module` or its moving average; weights and statistics must be left as they are.
        """
        return None

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
