"""Pictures of what a segmentation network answers on images that it was not trained on.

`nas.finetune.result` calls `write_examples` at the end of a fine-tuning; `nas report` shows the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data import ImageData, Splits
from nas.data.images import IGNORED
from nas.data.palette import palette
from nas.files import replacing
from nas.network import Network
from nas.training.evaluate import answers

EXAMPLES = 4
"""Number of pictures."""
FOLDER = "examples"
"""Their folder, inside that of the fine-tuning."""
_COVER = 0.6
"""Share of a class's colour in a painted pixel; the rest is the image's."""
_GAP = 4
"""White pixels between the three parts of a picture."""

Pixels = NDArray[np.uint8]


def write_examples(folder: Path, network: Network, data: Splits) -> dict[str, Any]:
    """Write pictures of some images with their masks and the network's answers.

    Each picture has the image, the image under its mask and the image under the network's classes,
    side by side. The images are spread evenly over the test images, or over the held-out ones where
    there are no test images: nothing about them is chosen by how well the network does.

    Args:
        folder: of the fine-tuning.
        network: in eval mode.
        data: the images, with masks.

    Returns:
        What finetune.yaml records of them: the part of the data, the classes that occur in them, and
        for each file the number of its image and the percentage of labelled pixels that are right.
    """
    images = data.test or data.held_out
    colours = palette(len(images.classes))
    (folder / FOLDER).mkdir(exist_ok=True)
    files = []
    present = set[int]()
    for count, index in enumerate(_spread(images), start=1):
        pixels, masks = images.read(slice(index, index + 1))
        found = answers(network, pixels, masks.shape[1:])[0]
        image = pixels[0].transpose(1, 2, 0)  # (3, H, W) to (H, W, 3)
        name = f"{FOLDER}/{count}.png"
        parts = [image, _painted(image, masks[0], colours), _painted(image, found, colours)]
        _write(folder / name, parts)
        labelled = masks[0] != IGNORED
        right = float((found == masks[0])[labelled].mean()) if labelled.any() else None
        share = None if right is None else round(100 * right, 2)
        files.append({"file": name, "image": index, "right": share})
        present |= set(np.unique(found).tolist()) | set(np.unique(masks[0][labelled]).tolist())
    return {
        "part": "test" if data.test else "held_out",
        "classes": sorted(present),
        "files": files,
    }


def _spread(images: ImageData) -> list[int]:
    """Return the indices of the images, evenly spread over all of them."""
    count = min(EXAMPLES, len(images))
    return [len(images) * number // count for number in range(count)]


def _painted(image: Pixels, classes: NDArray[np.int64], colours: Pixels) -> Pixels:
    """Return an image (H, W, 3) under the colours of its classes (H, W); ignored pixels stay."""
    counted = classes != IGNORED
    painted = image.astype(np.float64)
    painted[counted] += _COVER * (colours[classes[counted]] - painted[counted])
    return painted.round().astype(np.uint8)


def _write(path: Path, parts: list[Pixels]) -> None:
    """Write parts (H, W, 3) of a picture side by side as a PNG file."""
    from PIL import Image

    gap = np.full((len(parts[0]), _GAP, 3), 255, dtype=np.uint8)
    row = [each for part in parts for each in (gap, part)][1:]
    with replacing(path) as temporary:
        Image.fromarray(np.concatenate(row, axis=1)).save(temporary, format="PNG")
