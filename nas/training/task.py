"""Interface of a training's task, and the loss of networks with one head or two.

`nas.training.loop` calls a task; `nas.supernet.train` and `nas.finetune.task` define one each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def label_loss(
    output: Tensor | tuple[Tensor, Tensor],
    target: Tensor,
    smoothing: float = 0.0,
    loss: str = "ce",
) -> tuple[Tensor, Tensor]:
    """Return the mean loss over the heads, and their mean logits (B, classes).

    Args:
        output: logits (B, classes) of one head, or a pair of these.
        target: classes (B,) or probabilities (B, classes).
        smoothing: of the labels.
        loss: `ce` for the cross-entropy; `bce` for a binary cross-entropy per class, the mean over
            images and classes as in ResNet strikes back (arXiv:2110.00476).
    """
    heads = output if isinstance(output, tuple) else (output,)
    one = _binary_cross_entropy if loss == "bce" else _cross_entropy
    # In float32, also where autocast gives logits in half precision.
    losses = [one(logits.float(), target, smoothing) for logits in heads]
    # (heads, B, classes) to (B, classes).
    return torch.stack(losses).mean(), torch.stack(heads).float().mean(dim=0)


def _cross_entropy(logits_bc: Tensor, target: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(logits_bc, target, label_smoothing=smoothing)


def _binary_cross_entropy(logits_bc: Tensor, target: Tensor, smoothing: float) -> Tensor:
    classes = logits_bc.shape[1]
    wanted_bc = F.one_hot(target, classes) if target.dim() == 1 else target
    # Smoothed as for the cross-entropy: a share of the mass is spread over all classes.
    wanted_bc = wanted_bc.float() * (1 - smoothing) + smoothing / classes
    return F.binary_cross_entropy_with_logits(logits_bc, wanted_bc)


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
        targets: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss over a micro-batch, and the logits (B, classes) for the accuracy.

        It runs under autocast.

        Args:
            module: the module, in training mode.
            images_bchw: float, augmented, mixed and normalised, on the module's device.
            targets: classes (B,) as int64, or probabilities (B, classes) where images are mixed.
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
        """Return the top-1 accuracy in percent on held-out images, or None where there are none.

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
