"""Image data for training: decoded once at one resolution, then memory-mapped. Imports no torch.

`load_data` takes the digits that come with scikit-learn, an image folder, parquet files or a name
on the Hugging Face hub. It returns train, held-out and, where there are any, test images. `nas
train`, `nas finetune`, `nas export` and searches that evaluate members call it.
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
    """The splits of a data set.

    Attributes:
        train: images to train on.
        held_out: images held out of the training, to score and to choose by.
        test: the data's own test images, or None.
    """

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
    """Return the images and labels of a data set, split.

    The held-out images are stratified: each class keeps its share to within one image. They depend
    on `seed` alone and are never in `train`. Decoded images are cached under
    $XDG_CACHE_HOME/nas/data (~/.cache by default), one folder per data set, resolution, limit and
    seed.

    Args:
        name: `digits`, an image folder (one sub-folder per class, with or without train/ and test/
            or val/ above them), a parquet file, a folder or a `*` pattern of these, or a hub name.
        resolution: (height, width) in pixels. The short side is resized, then the centre is
            cropped.
        held_out: share (below 1) or number of training images to hold out.
        limit: maximum number of images per split, also stratified; None for all.
        seed: selects the images that are held out, and those within the limit.

    Raises:
        InputError: for an unknown name, columns that cannot be recognised, fewer than two classes,
            too many broken images, or a share that leaves nothing.
        NasError: when the cache could not be written.
    """
    if min(resolution) < 1:
        raise InputError(
            f"resolution {resolution[0]}x{resolution[1]}: is out of range (expected both sides at"
            " least 1)"
        )
    if limit is not None and limit < 2:
        raise InputError(
            f"limit {limit}: is too small (expected at least 2 images, to train on and to hold out)"
        )
    found = cached(find_source(name), resolution, limit, seed)
    every = found["train"]
    count = _held_out_count(held_out, len(every))
    # Images are stored in a stratified order, with the held-out images first. So both parts have
    # every class in its share.
    return Splits(
        train=_part(every, count, len(every), "to train on"),
        held_out=_part(every, 0, count, "held out of training"),
        test=found.get("test"),
    )


def _held_out_count(held_out: float | int, images: int) -> int:
    """Return how many of `images` images to hold out, for a share (below 1) or a number."""
    count = round(held_out * images) if held_out < 1 else held_out
    if not 0 < count < images or count != int(count):
        raise InputError(
            f"held-out {held_out}: is out of range (expected a share between 0 and 1 or a number"
            f" from 1 to {images - 1}, of {images} images)"
        )
    return int(count)


def _part(data: ImageData, start: int, stop: int, what: str) -> ImageData:
    """Return the images `start` to `stop`, as a view of the memory map."""
    return replace(
        data,
        images=data.images[start:stop],
        labels=data.labels[start:stop],
        source=f"{data.source}; {stop - start} of {len(data)} images {what}",
        fingerprint=text_sha256(f"{data.fingerprint}:{start}:{stop}"),
        part=Part(data.source, start, stop, len(data)),
    )


__all__ = ["ImageData", "Part", "Splits", "load_data"]
