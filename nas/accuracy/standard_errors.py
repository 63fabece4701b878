"""Standard errors of accuracies on held-out images, never 0: of one network's, and of a difference on the same images.

The scoring of a supernet (`nas.supernet.sensitivity`) and the evaluation of members (`nas.supernet.evaluate`) call it.
"""

from __future__ import annotations

from math import sqrt

Z95 = 1.959964
"""The standard normal quantile of a 95 % interval."""


def accuracy_error(accuracy: float, images: int) -> float:
    """Return the Wilson standard error of an accuracy, in points.

    Half the width of the 95 % score interval (Wilson, JASA 22:209-212, 1927), over z = 1.96. With p the share that is
    right of n images:

        se = sqrt(n p (1 - p) + z^2 / 4) / (n + z^2)

    The interval's centre lies nearer to 50 % than the accuracy itself; from 100 images on, accuracy +- 1.96 se covers
    as well. The textbook sqrt(p (1 - p) / n) is 0 at 100 %; this one is 4.5 points there for 18 images, 0.05 for 2,000.

    Args:
        accuracy: in percent.
        images: how many it was measured on, at least 1.
    """
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 100 * sqrt(images * share * (1 - share) + Z95**2 / 4) / (images + Z95**2)


def difference_error(lost: int, gained: int, images: int) -> float:
    """Return the standard error of the difference of two accuracies on the same images, in points.

    The paired variance of Agresti and Min (Statistics in Medicine 24:729-740, 2005), who add 1/2 to each of the four
    cells of the table right/wrong before x right/wrong after. With b lost, c gained and n images:

        se = sqrt((b + c + 1) - (b - c)^2 / (n + 2)) / (n + 2)

    Without the added halves it is 0 where no image changed, as if two networks that agree on 18 images were known to
    agree on all. For many changed images it becomes the standard error of the paired bootstrap.

    Args:
        lost: images that were right before and are wrong after.
        gained: images that were wrong before and are right after.
        images: how many images there are, at least 1.
    """
    total = images + 2
    changed = lost + gained + 1
    return 100 * sqrt(changed - (lost - gained) ** 2 / total) / total
