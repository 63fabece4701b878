"""`Task`, the base of what a network can be trained for, and the figures that it gives.

`nas.tasks.classify` and `nas.tasks.segment` are the tasks of this project; a package adds one as an
object of a subclass. Imports neither torch nor NumPy, so that a search can name a metric without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from nas.blocks import HeadSpec

    Tally = NDArray[np.integer[Any]]
    """Counts (N, ...) of each image, from which a task computes its metric on any of the images."""

    Output = Tensor | tuple[Tensor, Tensor]
    """What a network returns in training mode: the scores of its head, or those of two heads."""


@dataclass(frozen=True)
class Figure:
    """How good a network is on some images.

    Attributes:
        value: in percent of the task's metric.
        standard_error: of `value`, in points; never 0.
        by_class: the metric of each class in percent, None where it is not defined; empty where the
            metric is not one of classes.
    """

    value: float
    standard_error: float
    by_class: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Difference:
    """How sure the difference of two networks on the same images is.

    Attributes:
        standard_error: in points; never 0.
        lost, gained: number of images that only the first network, and only the second one, has
            right; None where an image is neither right nor wrong.
    """

    standard_error: float
    lost: int | None = None
    gained: int | None = None


class Task(ABC):
    """What a network is trained for.

    Life cycle: a command asks for a `head`, and a training for `loss` and `right` in each step. An
    evaluation calls `tally` for each batch, puts the tallies of all images (and processes) together,
    and asks for the `figure` of them. Scoring compares the tallies of two networks (`difference`).

    Attributes:
        name: the `HeadSpec.task` of its heads.
        metric: key of its metric in files.
        metric_words: the metric as people write it.
        has_maps: whether its targets are maps (B, H, W), which images are transformed together
            with. Other tasks have one class per image.
        defaults: settings of a training that differ from their usual defaults.
        fixed: those of them that cannot have another value, with the reason.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    metric_words: ClassVar[str]
    has_maps: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}
    fixed: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def head(self, own: HeadSpec, classes: int, **hyperparameters: int | None) -> HeadSpec:
        """Return a head of this task for a number of classes.

        Args:
            own: the head that a network or a space has. It is kept where it is of this task.
            classes: of the data.
            hyperparameters: those of the head that are asked for; None leaves one as it is.
        """

    @abstractmethod
    def loss(
        self, output: Output, targets: Tensor, smoothing: float = 0.0, loss: str = "ce"
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, and its scores, (B, classes) or (B, classes, h, w).

        The mean over a batch must be that over its parts, weighted by their numbers of images:
        micro-batches and processes share a batch.

        Args:
            output: of the network in training mode.
            targets: classes (B,), probabilities (B, classes), or maps of classes (B, H, W).
            smoothing: of the labels.
            loss: `ce` or `bce`, as `--loss`.
        """

    @abstractmethod
    def imitation(self, output: Output, teacher: Tensor) -> Tensor:
        """Return the mean loss of a batch against the probabilities of a teacher's scores."""

    @abstractmethod
    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return how many images of a batch are right, (): a part of an image counts as a share."""

    @abstractmethod
    def tally(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the counts (B, ...) of each image, as int64 on the device of the scores."""

    @abstractmethod
    def tally_shape(self, classes: int) -> tuple[int, ...]:
        """Return the shape of the counts of one image."""

    @abstractmethod
    def losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the cross-entropies of a batch and their number, (2,) in double."""

    @abstractmethod
    def figure(self, tally: Tally) -> Figure:
        """Return how good the network is whose counts on N images these are."""

    @abstractmethod
    def difference(self, before: Tally, after: Tally) -> Difference:
        """Return how sure the difference of two networks' figures on the same images is."""

    def has(self, head: HeadSpec) -> bool:
        """Return whether a head is of this task."""
        return head.task == self.name


def adapted(head: HeadSpec, classes: int, hyperparameters: Mapping[str, int | None]) -> HeadSpec:
    """Return a head with other classes, and with the hyperparameters that are not None."""
    asked = {name: value for name, value in hyperparameters.items() if value is not None}
    return replace(head, classes=classes, **asked)
