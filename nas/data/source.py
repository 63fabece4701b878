"""What a source of images gives: classes, splits with their labels, encoded images by index.

`nas.data.sources` finds the source of a name. A store, such as `nas.data.map_store`, decodes its
images; a source itself decodes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nas.data.masks import MaskCode

EncodedImage = bytes | str | NDArray[np.uint8] | None
"""An image before decoding: bytes or path of a file, pixels (H, W) or (H, W, 3), or None where it is
missing."""


@dataclass(frozen=True)
class Pair:
    """An image with its mask, before decoding.

    Attributes:
        image: the image.
        mask: the mask, in any form that an image may have.
        code: what the values of the mask mean; None where they are classes already.
    """

    image: EncodedImage
    mask: EncodedImage
    code: MaskCode | None = None


Encoded = EncodedImage | Pair
"""An image before decoding, with its mask where the data has masks."""


class SourceSplit(ABC):
    """One split of a source.

    A store calls `fetch` with the indices that it wants next. Ascending indices are the fastest:
    files of tables are read in their order. Splits can be pickled for the workers of a loader, and
    each worker then opens the files for itself. `fetch` is called by one thread at a time.

    Attributes:
        labels: (N,) int64, indices into the classes of the source.
    """

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        """Return the encoded images at some indices."""

    def blocks(self) -> NDArray[np.int64] | None:
        """Return the block (N,) that each image is read with, or None where each is read alone.

        Images of one block, in ascending order, cost one pass over it. A store that reads images in
        random order mixes blocks instead.
        """
        return None

    @abstractmethod
    def where(self, index: int) -> str:
        """Return the name of an image for messages: its path, or its file and row."""


@dataclass(frozen=True)
class Source:
    """A data set before it is decoded.

    Attributes:
        name: the argument of `load_data`.
        description: the same in words, for provenance.
        key: a text that changes when an image, a label or the choice of images does.
        classes: names of the classes, each with at least one image to train on.
        splits: `train`, and `test` where there is one.
        notes: sentences for people on what is left out or read in an unusual way.
        has_masks: whether the images are `Pair`s, and the classes are those of pixels.
    """

    name: str
    description: str
    key: str
    classes: tuple[str, ...]
    splits: Mapping[str, SourceSplit] = field(repr=False)
    notes: tuple[str, ...] = ()
    has_masks: bool = False

    @property
    def channels(self) -> int:
        """Return the number of layers of a decoded image: three colours, and the mask if any."""
        return 4 if self.has_masks else 3
