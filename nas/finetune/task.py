"""Task of a fine-tuning: the loss with a teacher.

`nas.finetune.run` hands it to the training loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import ImageData
from nas.finetune.options import Distill, Recipe
from nas.finetune.teacher import Teacher
from nas.network import Network
from nas.tasks import task_of
from nas.tasks.base import Task as Goal
from nas.tasks.classify import CLASSIFICATION
from nas.training.distributed import processes
from nas.training.evaluate import accuracy_of, calibrate
from nas.training.task import Task


def groups_of(
    module: nn.Module, recipe: Recipe, scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return groups: kernels and matrices with weight decay, all other parameters without.

    The others are norms, scales, biases and tables of attention biases.

    Args:
        module: whose parameters are trained.
        recipe: of the training.
        scales: the share of the learning rate that each child gets, by its name; None for all of it.
    """
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        decayed = parameter.dim() > 1 and not name.endswith("bias")
        scale = 1.0 if scales is None else scales[name.partition(".")[0]]
        groups.setdefault((decayed, scale), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "peak": recipe.learning_rate * scale,
        }
        for (decayed, scale), parameters in groups.items()
    ]


def loss_of(
    output: Tensor | tuple[Tensor, Tensor],
    targets: Tensor,
    taught: Tensor | None,
    recipe: Recipe,
    task: Goal = CLASSIFICATION,
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a batch, and the scores of the network's prediction.

    With a teacher the loss is (1 - weight) * cross-entropy with the targets + weight *
    distillation. In a distillation head (DeiT, arXiv:2012.12877) the first classifier learns from
    the targets and the second from the teacher. A single classifier learns from both. Without a
    teacher every classifier learns from the targets.

    Args:
        output: logits (B, classes); a pair of them from a distillation head in training mode.
        targets: probabilities (B, classes), or masks (B, H, W).
        taught: the teacher's scores, if there is one.
        recipe: label smoothing, and how to distill.
        task: what the network is trained for.
    """
    if taught is None:
        return task.loss(output, targets, recipe.label_smoothing, recipe.loss)
    first, second = output if isinstance(output, tuple) else (output, output)
    own, _ = task.loss(first, targets, recipe.label_smoothing, recipe.loss)
    other = distillation(second.float(), taught.float(), recipe.distill, recipe.distill_temperature)
    loss = (1 - recipe.distill_weight) * own + recipe.distill_weight * other
    # In eval mode a distillation head answers with the mean of its classifiers.
    return loss, (first.float() + second.float()) / 2


def distillation(scores: Tensor, taught: Tensor, distill: Distill, temperature: float) -> Tensor:
    """Return the teacher's part of the loss, the mean over the batch (and over the positions).

    The equations are those of DeiT (arXiv:2012.12877). Soft (Eq. 2): the divergence KL(teacher ||
    student) of the softened probabilities, times the temperature squared. Hard (Eq. 3): the
    cross-entropy with the teacher's most likely classes.

    Args:
        scores: (B, classes) or (B, classes, h, w), of the student.
        taught: those of the teacher; maps of another size are resized.
        distill: hard or soft.
        temperature: of both softmaxes, for soft distillation.
    """
    if taught.shape[2:] != scores.shape[2:]:
        size = scores.shape[2:]
        taught = F.interpolate(taught, size=size, mode="bilinear", align_corners=False)
    if distill == "hard":
        return F.cross_entropy(scores, taught.argmax(dim=1))
    student = (scores / temperature).log_softmax(dim=1)
    teacher = (taught / temperature).log_softmax(dim=1)
    # F.kl_div(a, b) is KL(b || a), here of each image or position. Gradients shrink by the
    # temperature squared; the factor keeps them as large as those of the cross-entropy.
    each = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return each.mean() * temperature**2


class Finetuning(Task):
    """The task of a network that learns from labels and from a teacher, on mixed images.

    As in DeiT (arXiv:2012.12877), the teacher sees the same mixed images as the network.

    Args:
        network: the network to train.
        teacher: the teacher, if there is one.
        recipe: settings of the training.
        held_out: images that the network is evaluated on after an epoch, if there are any.
        calibration: training images for the batch norms of the network that is evaluated.
    """

    def __init__(
        self,
        network: Network,
        teacher: Teacher | None,
        recipe: Recipe,
        held_out: ImageData | None = None,
        calibration: ImageData | None = None,
    ) -> None:
        self._network = network
        self.teacher = teacher
        self.recipe = recipe
        self.held_out = held_out
        self.calibration = calibration

    @property
    def goal(self) -> Goal:
        return task_of(self._network.architecture.head)

    @property
    def module(self) -> Network:
        return self._network

    @property
    def keeps_best(self) -> bool:
        return True

    def evaluate(self, module: nn.Module) -> float | None:
        """Return the network's accuracy in percent, its batch norms recalibrated as at the end."""
        if self.held_out is None or self.calibration is None:
            return None
        assert isinstance(module, Network)
        # A copy: recalibration must not change the statistics that the training continues with.
        network = deepcopy(module)
        calibrate(network, self.calibration)
        return accuracy_of(network, self.held_out, together=processes()).accuracy

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return `groups_of` the network; with layer-wise decay there are two per operation."""
        return groups_of(self._network, self.recipe, self._rate_scales())

    def _rate_scales(self) -> dict[str, float]:
        """Return the share of the learning rate that each operation gets, by its name.

        Layer-wise decay as in BEiT (arXiv:2106.08254): the head gets all of it, and each operation
        before it `layer_decay` times that of the next one.
        """
        names = [operation.name for operation in self._network.architecture.operations()]
        last = len(names) - 1
        return {name: self.recipe.layer_decay ** (last - i) for i, name in enumerate(names)}

    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        targets: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and the scores; see `Task.loss`."""
        # (B,) to (B, classes); the targets of mixed images are probabilities already.
        if targets.dim() == 1:
            targets = F.one_hot(targets, self._network.architecture.classes).float()
        taught = self.teacher(images_bchw) if self.teacher else None
        return loss_of(module(images_bchw), targets, taught, self.recipe, self.goal)
