"""Image data for training: decoded once at one resolution, then read from memory-mapped uint8.
Imports no torch.

`load_data` takes the digits that come with scikit-learn, an image folder, parquet files or a name
on the Hugging Face hub, and gives train, held-out and (where there is one) test images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nas.data.cache import cached
from nas.data.images import ImageData, Part
from nas.data.sources import find_source
from nas.errors import InputError
from nas.files import text_sha256


@dataclass(frozen=True)
class Splits:
    """What is trained on, what is held out of it (to score and to choose by), and the data's own
    test images if any."""

    train: ImageData
    held_out: ImageData
    test: ImageData | None


def load_data(
    name: str,
    resolution: tuple[int, int],
    held_out: float | int = 0.1,
    limit: int | None = None,
    seed: int = 0,
) -> Splits:
    """Load images and labels by name.

    The held-out images are stratified (each class keeps its share to within one image), depend on
    `seed` alone and are never in `train`. The decoded images are kept under
    $XDG_CACHE_HOME/nas/data (~/.cache by default), one folder for each data set, resolution, limit
    and seed.

    Args:
        name: `digits`, an image folder (a sub-folder a class, with or without train/ and test/ or
            val/ above them), a parquet file, a folder or a `*` pattern of them, or a hub name.
        resolution: (height, width) in pixels: the short side is resized, then the centre is
            cropped.
        held_out: the share (below 1) or the number of training images to hold out.
        limit: at most so many images of each split, stratified too; None for all.
        seed: which images are held out, and which are within the limit.

    Raises:
        InputError: unknown name, columns that cannot be told, fewer than two classes, too many
            broken images, a share that leaves nothing.
        NasError: the cache could not be written.
    """
    if min(resolution) < 1:
        raise InputError(
            f"resolution {resolution[0]}x{resolution[1]}: both sides must be at least 1"
        )
    if limit is not None and limit < 2:
        raise InputError(
            f"limit {limit}: at least 2 images are needed, some to train on and some to hold out"
        )
    found = cached(find_source(name), resolution, limit, seed)
    every = found["train"]
    count = _held_out_count(held_out, len(every))
    return Splits(
        train=_part(every, count, len(every), "to train on"),
        held_out=_part(every, 0, count, "held out of training"),
        test=found.get("test"),
    )


def _held_out_count(held_out: float | int, images: int) -> int:
    count = round(held_out * images) if held_out < 1 else held_out
    if not 0 < count < images or count != int(count):
        raise InputError(
            f"held-out {held_out}: with {images} images give a share between 0 and 1 or a number"
            f" from 1 to {images - 1}"
        )
    return int(count)


def _part(data: ImageData, start: int, stop: int, what: str) -> ImageData:
    """Return a contiguous part, which stays a view of the memory map: the images are stored in a
    stratified order."""
    return replace(
        data,
        images=data.images[start:stop],
        labels=data.labels[start:stop],
        source=f"{data.source}; {stop - start} of {len(data)} images {what}",
        fingerprint=text_sha256(f"{data.fingerprint}:{start}:{stop}"),
        part=Part(data.source, start, stop, len(data)),
    )


__all__ = ["ImageData", "Part", "Splits", "load_data"]
