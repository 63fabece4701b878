"""Segmentation: one class per pixel, evaluated by the mean intersection over union (mIoU).

A head gives scores (B, classes, h, w) at a fraction of the size of the masks (B, H, W). They are
upsampled bilinearly before anything is compared, as the networks are deployed. Pixels of the class
`IGNORED` count neither in the loss nor in the metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.blocks import FPNHead
from nas.data.images import IGNORED
from nas.tasks.base import Difference, Figure, Task, adapted
from nas.tasks.classify import accuracy_error

if TYPE_CHECKING:
    from torch import Tensor

    from nas.blocks import HeadSpec
    from nas.tasks.base import Output, Tally

_MOST_SCORES = 2**24
"""Upsampled scores that an evaluation holds at once: 64 MB in float32."""
_INTERSECTION, _ANSWERED, _LABELLED = range(3)
"""The counts of pixels that a tally has of each class."""
_LEAST_CHANGE = 1.0
"""Change of the mIoU, in points, that one more image is always thought capable of."""


class Segmentation(Task):
    """One class per pixel.

    The tally (N, 3, classes) of an image has the pixels of each class that are answered right, that
    are answered so, and that are labelled so. These are the diagonal and the sums of the columns
    and of the rows of its confusion matrix. Added up over images and processes they give the IoU of
    each class, as the whole matrix would, without classes^2 numbers per image.
    """

    name = "segmentation"
    metric = "miou"
    metric_words = "mIoU"
    has_maps = True
    # An image has thousands of labelled pixels, so a few images give a gradient, and a data set of
    # some hundred images needs many steps.
    defaults: ClassVar = {
        "batch": 16,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
        "repeats": 1,
    }
    fixed: ClassVar = {
        "mixup": "a pixel has one class",
        "cutmix": "masks are not mixed",
        "loss": "pixels are classified by a cross-entropy",
    }

    def head(self, own: HeadSpec, classes: int, **hyperparameters: int | None) -> HeadSpec:
        return adapted(own if self.has(own) else FPNHead(classes), classes, hyperparameters)

    def loss(
        self, output: Output, targets: Tensor, smoothing: float = 0.0, loss: str = "ce"
    ) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of the upsampled scores, and the scores (B, classes, h, w).

        Ignored pixels add nothing to the sum, which is divided by the number of all pixels. A mean
        over the labelled pixels of each micro-batch would weigh pixels by how many of their
        neighbours are labelled, and would be NaN where none is.
        """
        import torch.nn.functional as F

        scores = _map_of(output)
        total = F.cross_entropy(
            _upsampled(scores, targets),
            targets,
            ignore_index=IGNORED,
            label_smoothing=smoothing,
            reduction="sum",
        )
        return total / targets.numel(), scores

    def imitation(self, output: Output, teacher: Tensor) -> Tensor:
        """Return the cross-entropy with a teacher's probabilities at the positions of the scores.

        The probabilities are known everywhere, so no pixel is ignored.
        """
        import torch.nn.functional as F

        scores = _map_of(output)
        return F.cross_entropy(scores.float(), _upsampled(teacher, scores).softmax(dim=1))

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the images' shares of right pixels; ignored ones do not count."""
        import torch

        counts = self.tally(scores, targets)
        right = counts[:, _INTERSECTION].sum(dim=1)
        labelled = counts[:, _LABELLED].sum(dim=1).clamp(min=1)
        return torch.sum(right / labelled)

    def tally(self, scores: Tensor, targets: Tensor) -> Tensor:
        import torch

        classes = scores.shape[1]
        counts = []
        for some, masks in _slices(scores.detach(), targets):
            answers = _upsampled(some, masks).argmax(dim=1)
            counted = masks != IGNORED
            # The image's number makes one histogram serve all of them: (b, 1, 1) + (b, H, W).
            offsets = classes * torch.arange(len(masks), device=masks.device)[:, None, None]
            kinds = (
                (offsets + answers)[counted & (answers == masks)],
                (offsets + answers)[counted],
                (offsets + masks)[counted],
            )
            length = classes * len(masks)
            rows = [torch.bincount(each, minlength=length).view(-1, classes) for each in kinds]
            counts.append(torch.stack(rows, dim=1))  # (b, 3, classes)
        return torch.cat(counts)

    def tally_shape(self, classes: int) -> tuple[int, ...]:
        return (3, classes)

    def losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        totals = torch.zeros(2, dtype=torch.float64, device=scores.device)
        for some, masks in _slices(scores, targets):
            each = F.cross_entropy(
                _upsampled(some, masks), masks, ignore_index=IGNORED, reduction="none"
            )
            totals += torch.stack([each.double().sum(), (masks != IGNORED).double().sum()])
        return totals

    def figure(self, tally: Tally) -> Figure:
        """Return the mIoU over the classes that are answered or labelled on any of the images.

        Its standard error is the jackknife's over images (Efron and Stein, Annals of Statistics
        9:586-596, 1981): images are drawn, pixels are not.
        """
        total = tally.sum(axis=0)
        shares = _shares(total)
        value = _mean(shares)
        by_class = tuple(None if np.isnan(s) else 100 * float(s) for s in shares)
        if len(tally) < 2:
            # One image has no spread. A proportion's error bounds that of a mean of shares.
            return Figure(100 * value, accuracy_error(100 * value, 1), by_class)
        return Figure(100 * value, _error(_without_each(tally)), by_class)

    def difference(self, before: Tally, after: Tally) -> Difference:
        """Return the jackknife's standard error of the difference, over the images of both."""
        if len(before) < 2:
            return Difference(accuracy_error(50.0, 1))
        return Difference(_error(_without_each(after) - _without_each(before)))


def _map_of(output: Output) -> Tensor:
    """Return the scores of a head of dense prediction, which is a single one."""
    assert not isinstance(output, tuple)
    return output


def _upsampled(scores: Tensor, like: Tensor) -> Tensor:
    """Return scores (B, classes, h, w) in float32 at the height and width of another tensor."""
    import torch.nn.functional as F

    size = like.shape[-2:]
    if scores.shape[-2:] == size:
        return scores.float()
    return F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)


def _slices(scores: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scores and masks of a few images, so that their upsampled scores fit into memory."""
    images = max(1, _MOST_SCORES // (scores.shape[1] * targets[0].numel()))
    for start in range(0, len(targets), images):
        yield scores[start : start + images], targets[start : start + images]


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU (..., classes) by counts (..., 3, classes); NaN for classes on no pixel."""
    intersection = counts[..., _INTERSECTION, :]
    union = counts[..., _ANSWERED, :] + counts[..., _LABELLED, :] - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def _mean(shares: NDArray[np.float64]) -> float:
    """Return the mean over the classes that have an IoU; 0 where no pixel is labelled at all."""
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else 0.0


def _without_each(tally: Tally) -> NDArray[np.float64]:
    """Return the mIoU (N,) without each of the images, in percent.

    A class that a single image has would be lost without it, which says nothing of how well the
    class is found: it keeps its IoU.
    """
    total = tally.sum(axis=0)
    whole = _shares(total)
    shares = _shares(total - tally)  # (N, classes)
    known = ~np.isnan(whole)
    if not known.any():
        return np.zeros(len(tally))
    kept = np.where(np.isnan(shares), whole, shares)
    return 100 * np.asarray(kept[:, known].mean(axis=1))


def _error(without_each: NDArray[np.float64]) -> float:
    """Return the jackknife's standard error of a figure by its values without each image.

    It is not 0 where images agree in everything: one more image might not. That adds to the
    variance as if the next image changed the figure by `_LEAST_CHANGE`.
    """
    count = len(without_each)
    spread = float(np.square(without_each - without_each.mean()).sum()) * (count - 1) / count
    return sqrt(spread + (_LEAST_CHANGE / (count + 2)) ** 2)


SEGMENTATION = Segmentation()
