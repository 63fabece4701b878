"""Classify a photo with an exported file, by what the file itself says, for `nas predict FILE`.

Class names, input size and preprocessing are read from the file. So a user sees that it works
before an app is written around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.decoding import Depth, decode, scale_of
from nas.errors import InputError
from nas.export import NEEDS, TARGETS
from nas.export.target import Contents, Outputs, Target
from nas.extras import need
from nas.files import check_regular, tree_sha256
from nas.quantities import colour
from nas.runs.exports import FILE as RECORD_FILE
from nas.runs.exports import Record

SUFFIXES = {
    ".tflite": ("litert", "litert-int8"),
    ".onnx": ("onnx",),
    ".mlpackage": ("coreml", "coreml-int8", "coreml-palette6", "coreml-palette4"),
}
"""Targets whose files have a suffix; those of one suffix are read and run in the same way."""


@dataclass(frozen=True)
class Guess:
    """A class with its probability, from 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Classified:
    """The most probable classes of a photo.

    Attributes:
        file: the exported file that classified it.
        image: the photo.
        network: name of the network in the file.
        resolution: (height, width) that the photo was brought to, in pixels.
        guesses: the most probable classes, best first.
        classes: number of classes of the network.
        oddities: what was unusual about the photo, as keys of `nas.data.decoding.ODDITIES`.
    """

    file: Path
    image: Path
    network: str
    resolution: tuple[int, int]
    guesses: tuple[Guess, ...]
    classes: int
    oddities: tuple[str, ...] = ()


def classify(file: Path, image: Path, top: int = 5) -> Classified:
    """Return the most probable classes of a photo.

    The photo is prepared as in training: its short side is resized, its centre is cropped, and
    transparent pixels are laid on the training's background. The file normalises pixels itself.

    Args:
        file: written by `nas export`.
        image: a photo in any format that the data loader reads.
        top: number of classes.

    Raises:
        InputError: for a file that was not written by `nas export`, cannot run here or does not
            classify, and for a photo that cannot be decoded.
    """
    target = _target(file)
    assert target.run is not None and target.read is not None
    contents = target.read(file)
    if contents.dense:
        raise InputError(
            f"{file}: gives scores per pixel (dense prediction), not one class. Fix: a file of a"
            " classifier"
        )
    _check_unchanged(file)
    try:
        colour(contents.about.get("background", "white"))
    except ValueError as error:
        raise InputError(f"{file}: background: {error}") from None
    pixels, oddities = _pixels(image, contents)
    logits = target.run(file, pixels[None])[0]
    if not np.isfinite(logits).all():
        raise InputError(
            f"{file}: gives values that are not finite (inf or NaN), so it is damaged. Fix: export it"
            " again"
        )
    probabilities = _softmax(logits)
    if len(probabilities) != len(contents.classes):
        raise InputError(
            f"{file}: has {len(contents.classes)} class names for {len(probabilities)} outputs. Fix:"
            " export it again"
        )
    best = np.argsort(-probabilities, kind="stable")[:top]
    return Classified(
        file=file,
        image=image,
        network=contents.about.get("name", ""),
        resolution=contents.resolution,
        guesses=tuple(
            Guess(contents.classes[index], float(probabilities[index])) for index in best
        ),
        classes=len(contents.classes),
        oddities=oddities,
    )


def _target(file: Path) -> Target:
    """Return the target that runs files with this suffix. Raises InputError without one."""
    if not file.exists():
        raise InputError(f"{file}: does not exist. Fix: nas export RUN --to litert")
    check_regular(file)
    names = SUFFIXES.get(file.suffix.lower(), ())
    for name in names:
        need(f"classifying with {file.name}", *NEEDS[name])
        target = TARGETS[name]
        if target.run is not None and target.read is not None:
            return target
    if names:
        raise InputError(
            f"{file}: runs on Apple's systems alone. Fix: classify with the .tflite or .onnx file of"
            " the same network (nas export RUN --to litert)"
        )
    raise InputError(
        f"{file}: is not an exported file that can be run (got {file.suffix or 'no suffix'},"
        " expected .tflite or .onnx). Fix: nas export RUN --to litert"
    )


def _check_unchanged(file: Path) -> None:
    """Raise InputError where export.yaml beside a file has the checksum of another content.

    A runtime trusts its file: a flipped bit in one may end the whole process.
    """
    try:
        recorded = Record(file.parent).targets.values()
    except InputError:
        return  # a file alone is enough to classify
    for entry in recorded:
        digest = entry.get("sha256")
        if (
            isinstance(digest, str)
            and entry.get("file") == file.name
            and tree_sha256(file) != digest
        ):
            raise InputError(
                f"{file}: is damaged or was changed (its checksum differs from the one in"
                f" {file.parent / RECORD_FILE}). Fix: export it again"
            )


def _pixels(image: Path, contents: Contents) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return a photo as pixels (3, H, W), and what is unusual about it."""
    if not image.is_file():
        raise InputError(f"{image}: is not a file. Fix: --image with the path of a photo")
    background = contents.about.get("background", "white")
    decoded = decode(str(image), contents.resolution, background)
    if decoded.depth is not None:
        # More than 8 bits per channel: scaled by its own values, as no data set gives others.
        scales: dict[Depth, tuple[float, float]] = {
            decoded.depth: scale_of(decoded.depth, *decoded.values)
        }
        decoded = decode(str(image), contents.resolution, background, scales)
    if decoded.pixels is None:
        raise InputError(f"{image}: cannot be decoded ({decoded.error}). Fix: another photo")
    return decoded.pixels, decoded.oddities


def _softmax(logits: Outputs) -> NDArray[np.float64]:
    """Return the probabilities of logits (classes,)."""
    # The largest logit is subtracted: exp of a large one would overflow.
    raised: NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(raised / raised.sum())
