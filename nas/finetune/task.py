"""Task of a fine-tuning: the loss with a teacher.

`nas.finetune.run` hands it to the training loop.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import ImageData
from nas.finetune.options import Distill, Recipe
from nas.finetune.teacher import Teacher
from nas.network import Network
from nas.training.distributed import processes
from nas.training.evaluate import calibrate, judge
from nas.training.task import Task, label_loss


def loss_of(
    output: Tensor | tuple[Tensor, Tensor],
    targets_bc: Tensor,
    taught_bc: Tensor | None,
    recipe: Recipe,
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a batch, and the logits (B, classes) of the network's prediction.

    With a teacher the loss is (1 - weight) * cross-entropy with the targets + weight *
    distillation. In a distillation head (DeiT, arXiv:2012.12877) the first classifier learns from
    the targets and the second from the teacher. A single classifier learns from both. Without a
    teacher every classifier learns from the targets.

    Args:
        output: logits (B, classes); a pair of them from a distillation head in training mode.
        targets_bc: probabilities.
        taught_bc: the teacher's logits, if there is one.
        recipe: label smoothing, and how to distill.
    """
    if taught_bc is None:
        return label_loss(output, targets_bc, recipe.label_smoothing, recipe.loss)
    first, second = output if isinstance(output, tuple) else (output, output)
    own, _ = label_loss(first, targets_bc, recipe.label_smoothing, recipe.loss)
    other = distillation(
        second.float(), taught_bc.float(), recipe.distill, recipe.distill_temperature
    )
    loss = (1 - recipe.distill_weight) * own + recipe.distill_weight * other
    # In eval mode a distillation head answers with the mean of its classifiers.
    return loss, (first.float() + second.float()) / 2


def distillation(
    logits_bc: Tensor, taught_bc: Tensor, distill: Distill, temperature: float
) -> Tensor:
    """Return the teacher's part of the loss, the mean over the batch.

    The equations are those of DeiT (arXiv:2012.12877). Soft (Eq. 2): the divergence KL(teacher ||
    student) of the softened probabilities, times the temperature squared. Hard (Eq. 3): the
    cross-entropy with the teacher's most likely classes.

    Args:
        logits_bc: of the student.
        taught_bc: logits of the teacher.
        distill: hard or soft.
        temperature: of both softmaxes, for soft distillation.
    """
    if distill == "hard":
        return F.cross_entropy(logits_bc, taught_bc.argmax(dim=1))
    student = (logits_bc / temperature).log_softmax(dim=1)
    teacher = (taught_bc / temperature).log_softmax(dim=1)
    # F.kl_div(a, b) is KL(b || a). Gradients shrink by the temperature squared; the factor keeps
    # them as large as those of the cross-entropy.
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


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
    def module(self) -> Network:
        return self._network

    @property
    def keeps_best(self) -> bool:
        return True

    def evaluate(self, module: nn.Module) -> float | None:
        """Return the top-1 of the network in percent, its batch norms recalibrated as at the end."""
        if self.held_out is None or self.calibration is None:
            return None
        assert isinstance(module, Network)
        # A copy: recalibration must not change the statistics that the training continues with.
        network = deepcopy(module)
        calibrate(network, self.calibration)
        return judge(network, self.held_out, together=processes()).accuracy

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups: kernels and matrices with weight decay, all other parameters without.

        The others are norms, scales, biases and tables of attention biases. With layer-wise decay
        there are two groups per operation.
        """
        scales = self._rate_scales()
        groups: dict[tuple[bool, float], list[Tensor]] = {}
        for name, parameter in self._network.named_parameters():
            decayed = parameter.dim() > 1 and not name.endswith("bias")
            operation = name.partition(".")[0]
            groups.setdefault((decayed, scales[operation]), []).append(parameter)
        return [
            {
                "params": parameters,
                "weight_decay": self.recipe.weight_decay if decayed else 0.0,
                "peak": self.recipe.learning_rate * scale,
            }
            for (decayed, scale), parameters in groups.items()
        ]

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
        """Return the loss, and the logits (B, classes); see `Task.loss`."""
        # (B,) to (B, classes); the targets of mixed images are probabilities already.
        targets_bc = (
            F.one_hot(targets, self._network.architecture.classes).float()
            if targets.dim() == 1
            else targets
        )
        taught_bc = self.teacher(images_bchw) if self.teacher else None
        return loss_of(module(images_bchw), targets_bc, taught_bc, self.recipe)
