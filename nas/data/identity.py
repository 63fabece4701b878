"""Hashes of images before decoding, by which an image is recognised in other data.

A hash is of the encoded bytes, so it depends on neither store, resolution, order, label nor mask. A
folder, a parquet file and the hub give equal hashes of one file. `nas.runs.images` records them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.source import Encoded, Pair, SourceSplit

Hashes = NDArray[np.uint64]

_FETCHED = 256
"""Images fetched at once from a source: their encoded bytes are in memory together."""
_THREADS = 8
"""Threads that read and hash files; both happen outside of Python's lock."""


def image_hashes(split: SourceSplit, indices: NDArray[np.int64]) -> Hashes:
    """Return the hashes (N,) of some images of a source.

    Args:
        split: the images.
        indices: (N,) of the wanted images, in any order.
    """
    hashes = np.empty(len(indices), dtype=np.uint64)
    # Tables are read fastest in their own order.
    ascending = np.argsort(indices, kind="stable")
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(ascending), _FETCHED):
            places = ascending[start : start + _FETCHED]
            wanted = [int(index) for index in indices[places]]
            names = [split.where(index) for index in wanted]
            hashes[places] = list(pool.map(_hash, split.fetch(wanted), names))
    return hashes


def pixel_hashes(images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Hashes:
    """Return the hashes (N,) of images (N, 3, H, W) that no file is known of."""
    return np.array([_of_pixels(np.asarray(image)) for image in images], dtype=np.uint64)


def _hash(image: Encoded, where: str) -> int:
    """Return the hash of an image; of one that cannot be read, that of its name."""
    if isinstance(image, Pair):
        # One photo with two masks is one image.
        image = image.image
    if isinstance(image, str):
        try:
            image = Path(image).read_bytes()
        except OSError:
            image = None
    if isinstance(image, np.ndarray):
        return _of_pixels(image)
    return _digest(image or b"missing " + where.encode("utf-8", "surrogateescape"))


def _of_pixels(image: NDArray[np.uint8]) -> int:
    # Arrays of equal bytes and other shapes are other images.
    return _digest(repr(image.shape).encode() + image.tobytes())


def _digest(content: bytes) -> int:
    # 64 bits: among a million images and 50,000 others the chance of one false match is 3e-9.
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
