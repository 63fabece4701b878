"""What the training loop does with a found network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.finetune.losses import loss_of
from nas.finetune.mixing import mix
from nas.finetune.recipe import Recipe
from nas.finetune.teacher import Teacher
from nas.network import Network
from nas.training.task import Task


class Finetuning(Task):
    """A network that learns labels, and what a teacher says of the same images, mixed ones too (as DeiT trains)."""

    def __init__(self, network: Network, teacher: Teacher | None, recipe: Recipe) -> None:
        self._network, self.teacher, self.recipe = network, teacher, recipe

    @property
    def module(self) -> Network:
        return self._network

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay is for kernels and matrices: not for norms, scales, biases and tables of attention biases."""
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self._network.named_parameters():
            (decayed if parameter.dim() > 1 and not name.endswith("bias") else others).append(parameter)
        peak = self.recipe.learning_rate
        return [
            {"params": decayed, "weight_decay": self.recipe.weight_decay, "peak": peak},
            {"params": others, "weight_decay": 0.0, "peak": peak},
        ]

    def loss(
        self, module: nn.Module, images_bchw: Tensor, labels_b: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        targets_bc = F.one_hot(labels_b, self._network.architecture.classes).float()
        images_bchw, targets_bc = mix(images_bchw, targets_bc, self.recipe, generator)
        taught_bc = self.teacher(images_bchw) if self.teacher else None
        return loss_of(module(images_bchw), targets_bc, taught_bc, self.recipe)
