"""What a network learns from labels and from a teacher (DeiT, arXiv:2012.12877, Sec. 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nas.finetune.recipe import Distill, Recipe
from nas.training.losses import cross_entropy


def loss_of(
    output: Tensor | tuple[Tensor, Tensor], targets_bc: Tensor, taught_bc: Tensor | None, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch, and the logits (B, classes) that the network would answer with.

    With a teacher it is (1 - weight) * cross-entropy with the targets + weight * distillation. The first classifier of
    a distillation head learns the targets, the second one the teacher's; a head without a second one learns both.
    Without a teacher every classifier learns the targets.

    Args:
        output: logits (B, classes); a pair of them from a distillation head in training mode.
        targets_bc: probabilities.
        taught_bc: the teacher's logits, if there is one.
        recipe: label smoothing, and how to distill.
    """
    if taught_bc is None:
        return cross_entropy(output, targets_bc, recipe.label_smoothing)
    first, second = output if isinstance(output, tuple) else (output, output)
    own, _ = cross_entropy(first, targets_bc, recipe.label_smoothing)
    other = distillation(second.float(), taught_bc.float(), recipe.distill, recipe.distill_temperature)
    loss = (1 - recipe.distill_weight) * own + recipe.distill_weight * other
    return loss, (first.float() + second.float()) / 2


def distillation(logits_bc: Tensor, taught_bc: Tensor, distill: Distill, temperature: float) -> Tensor:
    """The teacher's part of the loss, the mean over the batch.

    Soft (Eq. 2): the divergence KL(teacher || student) of the softened probabilities, times the temperature squared,
    which keeps its gradients as large as those of the cross-entropy. Hard (Eq. 3): the cross-entropy with the
    teacher's answers.
    """
    if distill == "hard":
        return F.cross_entropy(logits_bc, taught_bc.argmax(dim=1))
    student = (logits_bc / temperature).log_softmax(dim=1)
    teacher = (taught_bc / temperature).log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
