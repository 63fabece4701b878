"""The real images of an export: some to calibrate with, others to judge by. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nas.data import ImageData, load_data


@dataclass(frozen=True)
class RealImages:
    """Images of the data that a network was trained on.

    Attributes:
        calibration: training images, which a quantisation takes the ranges of activations from.
        judged: what outputs are compared and accuracy is counted on; test images, or else held-out
            ones.
    """

    calibration: ImageData
    judged: ImageData


def load_images(
    data: str,
    resolution: tuple[int, int],
    limit: int,
    calibrate: int,
    held_out: float | int = 0.1,
    seed: int = 0,
) -> RealImages:
    """At most `limit` images to judge by and `calibrate` to calibrate with, each class in its
    share.

    `held_out` and `seed` are those of the training, so that what was held out of it is held out
    here. Images stand in one order for a seed, those that are held out first: of a training that
    says how many these were no more need to be decoded than are used. Else the data is decoded
    whole, as the training had it.

    Raises:
        InputError: as `nas.data.load_data`.
    """
    enough = max(held_out + calibrate, limit) if isinstance(held_out, int) else None
    splits = load_data(data, resolution, held_out, enough, seed)
    return RealImages(
        _first(splits.train, calibrate), _first(splits.test or splits.held_out, limit)
    )


def _first(data: ImageData, count: int) -> ImageData:
    """Return the first images; their order is stratified."""
    return replace(data, images=data.images[:count], labels=data.labels[:count])
