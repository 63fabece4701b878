"""Decoded images with their labels, and the stratified order in which they are stored.

`nas.data.map_store` makes them; trainings, scoring and exports take them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.data.identity import Hashes, pixel_hashes

if TYPE_CHECKING:
    from nas.data.stream_store import StreamImages, StreamMasks

Store = Literal["memory", "stream"]
"""Where images are: decoded in a memory map, or in their source until they are read."""
AskedStore = Literal["auto", "memory", "stream"]
"""A store by name; `auto` chooses one by the size of the data."""

IGNORED = 255
"""The class of mask pixels that count neither in a loss nor in a metric."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, for pixels from 0 to 1.

Published weights expect images normalised with them.
"""


@dataclass(frozen=True)
class Part:
    """The range of a data set's images that form one split.

    Attributes:
        dataset: the data set in words.
        start, stop: the first image of the split, and the image after its last.
        total: number of images of the data set.
    """

    dataset: str
    start: int
    stop: int
    total: int


class SelectedImages:
    """Some images (N, ...) of a memory map, which are copied when they are read.

    Args:
        images: all images.
        index: (N,) of the selected ones.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, images: NDArray[np.uint8], index: NDArray[np.int64]) -> None:
        self._images = images
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._images.shape[1:])

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._images[self._index[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self[:]
        return pixels if dtype is None else pixels.astype(dtype)


@dataclass(frozen=True)
class ImageData:
    """Images at one resolution.

    Attributes:
        images: (N, 3, H, W) uint8, RGB, usually a read-only memory map. Those of the `stream` store
            are decoded by `np.asarray`; a slice or an array of indices of them decodes nothing.
        labels: (N,) int64, indices into `classes`.
        classes: names of the classes.
        skipped: number of broken images that were left out.
        source: origin of the images in words, for provenance.
        fingerprint: a hash of pixels, labels and classes; equal if and only if these are. That of
            the `stream` store has the files of some images in place of all pixels.
        part: the range of the data set that these images are; None for a whole data set, and for
            images from elsewhere.
        name: the argument of `load_data`; empty for images from elsewhere.
        background: the colour that transparent pixels were laid on.
        store: `stream` where images are decoded when they are read.
        masks: (N, H, W) uint8, the class of each pixel or `IGNORED`, where the data has masks;
            `labels` are 0 then. Those of the `stream` store are decoded by `np.asarray`, too.
        hashes: (N,) uint64 of the images before decoding; None where they are not computed yet, as
            in the `stream` store (`image_hashes` computes them).
    """

    images: NDArray[np.uint8] | StreamImages | SelectedImages
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: int
    source: str
    fingerprint: str
    part: Part | None = None
    name: str = ""
    background: str = "white"
    store: Store = "memory"
    masks: NDArray[np.uint8] | StreamMasks | SelectedImages | None = None
    hashes: Hashes | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image_hashes(self) -> Hashes:
        """Return the hashes (N,) of the images before decoding.

        They are equal in both stores and at any resolution. Images from elsewhere have those of
        their pixels.
        """
        if self.hashes is not None:
            return self.hashes
        if isinstance(self.images, np.ndarray | SelectedImages):
            return pixel_hashes(np.asarray(self.images))
        return self.images.hashes()

    def selected(self, chosen: NDArray[np.bool_]) -> ImageData:
        """Return the images for which `chosen` (N,) is true. No pixels are copied."""
        index = np.flatnonzero(chosen)

        def select(layers: Any) -> Any:
            return (
                SelectedImages(layers, index) if isinstance(layers, np.ndarray) else layers[index]
            )

        return replace(
            self,
            images=select(self.images),
            labels=self.labels[index],
            masks=None if self.masks is None else select(self.masks),
            hashes=None if self.hashes is None else self.hashes[index],
        )

    def some(self, index: slice) -> ImageData:
        """Return some of the images, as a view of the store."""
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            masks=None if self.masks is None else self.masks[index],
            hashes=None if self.hashes is None else self.hashes[index],
        )

    @property
    def channels(self) -> int:
        """Return the number of layers of an image: three colours, and the mask where there is one."""
        return 3 if self.masks is None else 4

    def layers(self, index: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return some images (B, channels, H, W); the last layer is the mask where there is one."""
        images = self.images[index]
        if not isinstance(images, np.ndarray):
            return images.layers()
        if self.masks is None:
            return images
        masks = self.masks[index]
        assert isinstance(masks, np.ndarray)
        return np.concatenate([images, masks[:, None]], axis=1)

    def read(self, index: slice) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the pixels (B, 3, H, W) and the targets of some images: labels (B,), or masks."""
        layers = np.array(self.layers(index))
        if self.masks is None:
            return layers, np.array(self.labels[index])
        return layers[:, :3], layers[:, 3].astype(np.int64)


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return a shuffled order (N,) in which every prefix and suffix has each class in its share.

    The r-th image (in shuffled order) of a class with n images goes to the fraction (r + 1/2) / n
    of the whole. A prefix of k out of N images thus has k * n / N images of the class, to within
    one image.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    position = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Stable: images of equal fraction keep their shuffled order, the same for a seed everywhere.
    return shuffled[np.argsort(position[shuffled], kind="stable")]
