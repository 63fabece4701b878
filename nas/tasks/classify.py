"""Classification: one class per image, evaluated by its top-1 accuracy.

The standard errors are here, too: `nas.accuracy` takes them for all scores in top-1.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from nas.tasks.base import Difference, Figure, Task, adapted

if TYPE_CHECKING:
    from torch import Tensor

    from nas.blocks import HeadSpec
    from nas.tasks.base import Output, Tally

Z95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


def accuracy_error(accuracy: float, images: int) -> float:
    """Return the Wilson standard error of an accuracy, in points.

    It is half the width of the 95 % score interval (Wilson, JASA 22:209-212, 1927), divided by
    z = 1.96. With p the share of correct images among n:

        se = sqrt(n p (1 - p) + z^2 / 4) / (n + z^2)

    The interval's centre is nearer to 50 % than the accuracy itself, but from 100 images on,
    accuracy +- 1.96 se covers as well. The textbook sqrt(p (1 - p) / n) is 0 at 100 %. This one is
    4.5 points there for 18 images, and 0.05 points for 2,000.

    Args:
        accuracy: in percent.
        images: number of images that it was measured on, at least 1.
    """
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 100 * sqrt(images * share * (1 - share) + Z95**2 / 4) / (images + Z95**2)


def difference_error(lost: int, gained: int, images: int) -> float:
    """Return the standard error of the difference of two accuracies on the same images, in points.

    It is the paired variance of Agresti and Min (Statistics in Medicine 24:729-740, 2005). They add
    1/2 to each of the four cells of the table right/wrong before x right/wrong after. With b lost,
    c gained and n images:

        se = sqrt((b + c + 1) - (b - c)^2 / (n + 2)) / (n + 2)

    Without the added halves it would be 0 where no image changed, as if two networks that agree on
    18 images were known to agree on all. For many changed images it approaches the standard error
    of the paired bootstrap.

    Args:
        lost: number of images that were right before and are wrong after.
        gained: number of images that were wrong before and are right after.
        images: number of images, at least 1.
    """
    total = images + 2
    changed = lost + gained + 1
    return 100 * sqrt(changed - (lost - gained) ** 2 / total) / total


class Classification(Task):
    """One class per image. The tally of an image is 1 where its class has the largest logit."""

    name = "classification"
    metric = "top1"
    metric_words = "top-1"

    def head(self, own: HeadSpec, classes: int, **hyperparameters: int | None) -> HeadSpec:
        return adapted(own, classes, hyperparameters)

    def loss(
        self, output: Output, targets: Tensor, smoothing: float = 0.0, loss: str = "ce"
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss over the heads, and their mean logits (B, classes).

        Args:
            output: logits (B, classes) of one head, or a pair of these.
            targets: classes (B,) or probabilities (B, classes).
            smoothing: of the labels.
            loss: `ce` for the cross-entropy; `bce` for a binary cross-entropy per class, the mean
                over images and classes as in ResNet strikes back (arXiv:2110.00476).
        """
        import torch

        heads = output if isinstance(output, tuple) else (output,)
        one = _binary_cross_entropy if loss == "bce" else _cross_entropy
        # In float32, also where autocast gives logits in half precision.
        losses = [one(logits.float(), targets, smoothing) for logits in heads]
        # (heads, B, classes) to (B, classes).
        return torch.stack(losses).mean(), torch.stack(list(heads)).float().mean(dim=0)

    def imitation(self, output: Output, teacher: Tensor) -> Tensor:
        return self.loss(output, teacher.softmax(dim=1))[0]

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        return (scores.argmax(dim=1) == targets).sum()

    def tally(self, scores: Tensor, targets: Tensor) -> Tensor:
        return (scores.argmax(dim=1) == targets).long()

    def tally_shape(self, classes: int) -> tuple[int, ...]:
        return ()

    def losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        total = F.cross_entropy(scores.float(), targets, reduction="none").double().sum()
        return torch.stack([total, total.new_tensor(len(targets))])

    def figure(self, tally: Tally) -> Figure:
        value = 100 * float(tally.mean())
        return Figure(value, accuracy_error(value, len(tally)))

    def difference(self, before: Tally, after: Tally) -> Difference:
        # Both networks saw the same images. Only those on which they differ carry information, so
        # the paired error is smaller than that of two independent accuracies (as McNemar's test).
        lost = int((before > after).sum())
        gained = int((after > before).sum())
        return Difference(difference_error(lost, gained, len(before)), lost, gained)


def _cross_entropy(logits_bc: Tensor, target: Tensor, smoothing: float) -> Tensor:
    import torch.nn.functional as F

    return F.cross_entropy(logits_bc, target, label_smoothing=smoothing)


def _binary_cross_entropy(logits_bc: Tensor, target: Tensor, smoothing: float) -> Tensor:
    import torch.nn.functional as F

    classes = logits_bc.shape[1]
    wanted_bc = F.one_hot(target, classes) if target.dim() == 1 else target
    # Smoothed as for the cross-entropy: a share of the mass is spread over all classes.
    wanted_bc = wanted_bc.float() * (1 - smoothing) + smoothing / classes
    return F.binary_cross_entropy_with_logits(logits_bc, wanted_bc)


CLASSIFICATION = Classification()
