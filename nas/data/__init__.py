"""Image data for training: decoded once and memory-mapped, or when it is read. Imports no torch.

`load_data` takes the digits that come with scikit-learn, an image folder, parquet files or a name
on the Hugging Face hub. It returns train, held-out and, where there are any, test images. `nas
train`, `nas finetune`, `nas export` and searches that evaluate members call it.

`sources` finds a source, which gives encoded images and labels. The `memory` store decodes all of
it at one resolution (`map_store`) and keeps that (`cache`). The `stream` store (`stream_store`)
decodes images when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nas.data.cache import cached
from nas.data.images import AskedStore, ImageData, Part, Store
from nas.data.map_store import MapRequest
from nas.data.memory import usable_memory
from nas.data.notes import counted, note, shown
from nas.data.source import Source
from nas.data.sources import find_source, is_digits, is_scenes
from nas.data.stream_store import StreamImages, StreamMasks, open_stream
from nas.errors import InputError
from nas.files import text_sha256

_MEMORY_SHARE = 0.5
"""Share of the memory that decoded images may take: the rest is the training's."""


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


@dataclass(frozen=True)
class Whole:
    """A data set before images are held out.

    Attributes:
        train: images to train on and to hold out, in stratified order.
        test: the data's own test images, or None.
    """

    train: ImageData
    test: ImageData | None


def load_data(
    name: str,
    resolution: tuple[int, int],
    held_out: float | int = 0.1,
    limit: int | None = None,
    seed: int = 0,
    background: str = "white",
    store: AskedStore = "auto",
    masks: bool = False,
) -> Splits:
    """Return the images and labels of a data set, split. Their numbers are printed on stderr.

    The held-out images are stratified (each class keeps its share to within one image), depend on
    `seed` alone and are never in `train`. The images that the `memory` store decodes are kept under
    $XDG_CACHE_HOME/nas/data (~/.cache by default), one folder per data set, resolution, limit and
    seed. The `stream` store writes nothing.

    Args:
        name: an image folder (one sub-folder per class, with or without train/ and test/ or val/
            above them, or with a metadata.csv), a parquet file, a folder or a `*` pattern of these,
            `digits`, or a hub name; with masks a folder with `images` and `masks` (and other
            layouts, see `nas.data.mask_folders`), parquet files, or `digit-scenes`.
        resolution: (height, width) in pixels; the short side is resized, then the centre is
            cropped. Images with masks are kept whole and filled up.
        held_out: share (below 1) or number of training images to hold out.
        limit: maximum number of images of each split, stratified too; None for all.
        seed: decides which images are held out, and which are within the limit.
        background: the colour behind transparent pixels: white, grey, black or #rrggbb.
        store: `memory` or `stream`; `auto` is `memory` where the decoded images take at most half
            of the machine's memory.
        masks: whether each image has a mask with the class of each pixel, not one class.

    Raises:
        InputError: for an unknown name, splits, classes or columns that cannot be recognised, fewer
            than two classes, too many broken images, or a share that leaves nothing.
        NasError: when the cache could not be written.
    """
    splits = divide(load_whole(name, resolution, limit, seed, background, store, masks), held_out)
    for line in () if masks else _untrained_classes(splits):
        note(f"warning: data {name}: {line}")
    return splits


def load_whole(
    name: str,
    resolution: tuple[int, int],
    limit: int | None = None,
    seed: int = 0,
    background: str = "white",
    store: AskedStore = "auto",
    masks: bool = False,
) -> Whole:
    """Return a data set before images are held out; see `load_data`.

    Raises:
        InputError, NasError: as `load_data`.
    """
    if min(resolution) < 1:
        raise InputError(
            f"resolution {resolution[0]}x{resolution[1]}: both sides must be at least 1"
        )
    if limit is not None and limit < 2:
        raise InputError(
            f"limit {limit}: at least 2 images are needed, some to train on and some to hold out"
        )
    source = find_source(name, masks)
    _tell(source, limit)
    request = MapRequest(source, resolution, limit, seed, background)
    splits = cached(request) if _chosen(store, request) == "memory" else open_stream(request)
    return Whole(splits["train"], splits.get("test"))


def _chosen(store: AskedStore, request: MapRequest) -> Store:
    """Return the store of a data set: for `auto` by the bytes of its decoded images.

    They are compared with all memory and not with what is free just now. All processes of a training
    thus choose the same, today and when it is resumed.
    """
    if store != "auto":
        return store
    sizes = [min(len(each), request.limit or len(each)) for each in request.source.splits.values()]
    needed = sum(sizes) * request.image_bytes
    memory = usable_memory()
    if memory is None or needed <= _MEMORY_SHARE * memory:
        return "memory"
    note(
        f"data {request.source.name}: decoded images would take {needed / 1e9:.0f} GB of"
        f" {memory / 1e9:.0f} GB of memory, so they are decoded when they are read (--store stream)"
    )
    return "stream"


def divide(whole: Whole, held_out: float | int) -> Splits:
    """Return a data set with a share (below 1) or a number of images held out.

    Raises:
        InputError: for a share or number that leaves nothing.
    """
    every = whole.train
    count = _held_out_count(held_out, len(every))
    # Images are stored in a stratified order, so both parts have every class in its share. The
    # held-out ones come first.
    return Splits(
        train=_part(every, count, len(every), "to train on"),
        held_out=_part(every, 0, count, "held out of training"),
        test=whole.test,
    )


def _untrained_classes(data: Splits) -> list[str]:
    """Return a line for the user where classes have held-out images but none to train on."""
    trained = set(data.train.labels.tolist())
    names = [name for label, name in enumerate(data.train.classes) if label not in trained]
    if not names:
        return []
    noun = "class" if len(names) == 1 else "classes"
    return [
        f"no image to train on for {noun} {shown(names)}. Fix: lower --held-out, raise --limit or"
        " add images"
    ]


def _tell(source: Source, limit: int | None) -> None:
    """Print the number of images of each split, where the test split begins, and what is left out."""
    counts = ", ".join(
        f"{split} {counted(len(images), 'image')}"
        + (f" from {images.where(0)} on" if split == "test" else "")
        for split, images in source.splits.items()
    )
    limited = "" if limit is None else f", of which at most {limit} each are used"
    names = shown(list(source.classes))
    note(f"data {source.name}: {counts}{limited}; {len(source.classes)} classes ({names})")
    for text in source.notes:
        note(f"data {source.name}: {text}")


def _held_out_count(held_out: float | int, images: int) -> int:
    """Return the number of images to hold out, of `images`, for a share (below 1) or a number."""
    count = round(held_out * images) if held_out < 1 else held_out
    if not 0 < count < images or count != int(count):
        remedy = "give more images" if images < 2 else f"--held-out {max(1, images // 5)}"
        raise InputError(
            f"held-out {held_out:g}: would hold out {count:g} of {counted(images, 'image')} (expected a"
            f" whole number from 1 to {images - 1}, or a share that gives one). Fix: {remedy}"
        )
    return int(count)


def _part(data: ImageData, start: int, stop: int, what: str) -> ImageData:
    """Return the images `start` to `stop`, as a view of the store."""
    images = data.images
    return replace(
        data,
        images=(
            images.part(start, stop) if isinstance(images, StreamImages) else images[start:stop]
        ),
        labels=data.labels[start:stop],
        masks=(
            data.masks.part(start, stop)
            if isinstance(data.masks, StreamMasks)
            else None
            if data.masks is None
            else data.masks[start:stop]
        ),
        source=f"{data.source}; {stop - start} of {len(data)} images {what}",
        fingerprint=text_sha256(f"{data.fingerprint}:{start}:{stop}"),
        part=Part(data.source, start, stop, len(data)),
        hashes=None if data.hashes is None else data.hashes[start:stop],
    )


__all__ = [
    "ImageData",
    "Part",
    "Splits",
    "Whole",
    "divide",
    "is_digits",
    "is_scenes",
    "load_data",
    "load_whole",
]
