"""What a source of images gives: classes, splits with their labels, encoded images by index.

`nas.data.sources` finds the source of a name. A store, such as `nas.data.map_store`, decodes its
images; a source itself decodes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Encoded = bytes | str | NDArray[np.uint8] | None
"""An image before decoding: bytes or path of a file, pixels (H, W), or None where it is missing."""


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
    """

    name: str
    description: str
    key: str
    classes: tuple[str, ...]
    splits: Mapping[str, SourceSplit] = field(repr=False)
    notes: tuple[str, ...] = ()
