"""Real images of an export: to calibrate with, and to evaluate on. Imports no torch.

`nas.export.command` loads them where --data is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.data import ImageData, load_data
from nas.data.images import IGNORED


@dataclass(frozen=True)
class RealImages:
    """Images of the data that a network was trained on.

    Attributes:
        calibration: training images, from which a quantisation takes the ranges of activations.
        evaluated: test images, or else held-out ones, on which outputs are compared and accuracy is
            measured.
    """

    calibration: ImageData
    evaluated: ImageData

    def labelled_by(self, classes: Sequence[str]) -> RealImages:
        """Return the same images with labels that index these classes.

        They are the names of the data's classes, perhaps in another order.
        """
        evaluated = self.evaluated
        if tuple(classes) == evaluated.classes:
            return self
        index = np.array([list(classes).index(name) for name in evaluated.classes], dtype=np.int64)
        if evaluated.masks is None:
            named = replace(evaluated, labels=index[evaluated.labels], classes=tuple(classes))
        else:
            # Ignored pixels stay ignored.
            table = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
            table[: len(index)] = index
            named = replace(evaluated, masks=table[evaluated.masks], classes=tuple(classes))
        return replace(self, evaluated=named)


def load_images(
    data: str,
    resolution: tuple[int, int],
    limit: int,
    calibrate: int,
    held_out: float | int = 0.1,
    seed: int = 0,
    background: str = "white",
    masks: bool = False,
) -> RealImages:
    """Return at most `limit` images to evaluate on and `calibrate` images to calibrate with.

    Each class has its share in both.

    Args:
        data: the images by name, as `--data` takes them.
        resolution: (height, width) in pixels.
        limit, calibrate: maximum numbers of images.
        held_out, seed, background: those of the training, so that the same images are held out
            here and have the same pixels.
        masks: whether the images have masks, as those of dense prediction.

    Raises:
        InputError: as `nas.data.load_data`.
    """
    # A seed gives one order of images, in which the held-out ones come first. Where their number is
    # known, only the images that are used need to be decoded. A share is of the whole data set,
    # which must then be decoded whole.
    enough = max(held_out + calibrate, limit) if isinstance(held_out, int) else None
    splits = load_data(
        data,
        resolution,
        held_out=held_out,
        limit=enough,
        seed=seed,
        background=background,
        masks=masks,
    )
    return RealImages(
        _first(splits.train, calibrate), _first(splits.test or splits.held_out, limit)
    )


def _first(data: ImageData, count: int) -> ImageData:
    """Return the first images; as their order is stratified, every class keeps its share."""
    # Images of a stream are decoded here, once.
    first = data.some(slice(count))
    masks = None if first.masks is None else np.asarray(first.masks)
    return replace(first, images=np.asarray(first.images), masks=masks)
