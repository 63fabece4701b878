"""Colours of classes: those of Pascal VOC's masks.

Exported files of segmentation networks carry them, and reports paint masks with them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BITS = 8


def palette(count: int) -> NDArray[np.uint8]:
    """Return the colours (count, 3) of the first classes; class 0 is black.

    Each bit of a class's number sets one bit of a colour, red, green and blue in turn, the highest
    bits first. So neighbouring numbers have distant colours, and the first 256 all differ.
    """
    numbers = np.arange(count)
    found = np.zeros((count, 3), dtype=np.uint8)
    for bit in range(_BITS):
        for channel in range(3):
            value = (numbers >> (3 * bit + channel)) & 1
            found[:, channel] |= (value << (_BITS - 1 - bit)).astype(np.uint8)
    return found


def colours(count: int) -> list[str]:
    """Return the same as #rrggbb."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette(count).tolist()]
