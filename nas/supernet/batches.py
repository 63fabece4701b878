"""The batches of an epoch, a function of seed and epoch alone, so that a resumed run sees the very same ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def epoch_batches(images: int, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """A permutation of `images` indices cut into batches of at most `batch`.

    The sizes differ by one at most, so that no small last batch spoils the batch-norm statistics.
    """
    if images < 1 or batch < 1:
        raise ValueError(f"{images} images in batches of {batch}: both must be at least 1")
    order = np.random.default_rng((seed, epoch)).permutation(images)
    return np.array_split(order, -(-images // batch))
