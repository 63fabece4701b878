"""Decodes masks, and images together with theirs: the class of each pixel from the values of a file.

Both stores and the workers of `nas.training.loader` call `decode`. A decoded image with a mask
has four layers (4, H, W), so that the two are stored, cut and mirrored together. A mask whose values
are not understood makes its image a broken one, which is named and counted, and never a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.data.decoding import Decoded, Depth, Fit, Refused, Scale, opened, reason_of
from nas.data.decoding import decode as decode_image
from nas.data.images import IGNORED, MEAN
from nas.data.source import Encoded, EncodedImage, Pair

if TYPE_CHECKING:
    from PIL import Image as Pillow

Colour = tuple[int, int, int]
"""Red, green and blue."""
PairFit = Callable[["Pillow.Image", "Pillow.Image"], NDArray[np.uint8]]
"""A function from an RGB image and its mask, of one size, to layers (4, H, W)."""

MOST_CLASSES = IGNORED
"""Maximum number of classes of pixels: masks are kept in bytes, and 255 is ignored."""
_UNKNOWN = -1
_LOSSY = ("JPEG", "MPO")
"""Formats that change the values of pixels, so that a border becomes other classes."""


@dataclass(frozen=True)
class MaskCode:
    """What the values of a data set's masks mean.

    Attributes:
        values: the class of each value, or `IGNORED`. Palette images have their indices as values.
        colours: the class of each colour (red, green, blue), or `IGNORED`, where masks have colours
            in place of values.
        classes: number of classes.
    """

    values: Mapping[int, int]
    classes: int
    colours: Mapping[Colour, int] = field(default_factory=dict)

    def class_of(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return the class of each pixel.

        Args:
            values: (H, W), or colours (H, W, 3).

        Raises:
            Refused: for a value that is none of the classes'.
        """
        if values.ndim == 3:
            return self._class_of_colour(values)
        inside = (values >= 0) & (values < len(self._table))
        found = self._table[np.where(inside, values, 0)]
        unknown = values[~inside | (found == _UNKNOWN)]
        if unknown.size:
            raise Refused(
                f"its mask has the value {int(unknown.flat[0])}, which is none of the"
                f" {self.classes} classes"
            )
        classes: NDArray[np.uint8] = found.astype(np.uint8)
        return classes

    def _class_of_colour(self, colours: NDArray[np.integer]) -> NDArray[np.uint8]:
        packed = _packed(colours.astype(np.int64))
        kinds, inverse = np.unique(packed, return_inverse=True)
        known = {int(_packed(np.array(colour))): kind for colour, kind in self.colours.items()}
        for kind in kinds.tolist():
            if kind not in known:
                colour = (kind >> 16, kind >> 8 & 255, kind & 255)
                raise Refused(f"its mask has the colour {colour}, which is none of the classes'")
        classes = np.array([known[kind] for kind in kinds.tolist()], dtype=np.uint8)
        found: NDArray[np.uint8] = classes[inverse.reshape(packed.shape)]
        return found

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        table = np.full(max([*self.values, IGNORED]) + 1, _UNKNOWN, dtype=np.int16)
        for value, kind in self.values.items():
            table[value] = kind
        return table


def _packed(colours: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return colours (..., 3) as one number each."""
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]


def listed_code(ignored: Mapping[int, bool]) -> MaskCode:
    """Return the code of masks whose values are numbered by a list, of which some are ignored."""
    values: dict[int, int] = {}
    for value, ignore in ignored.items():
        values[value] = IGNORED if ignore else len(set(values.values()) - {IGNORED})
    classes = sum(not each for each in ignored.values())
    return MaskCode({IGNORED: IGNORED} | values, classes)


def values_of(encoded: EncodedImage, colours: bool = False) -> NDArray[np.integer]:
    """Return the values (H, W) of a mask, or its colours (H, W, 3).

    Args:
        encoded: the mask.
        colours: whether its colours are meant, not its values.

    Raises:
        Refused: for an image that is no mask, with the reason.
        Exception: whatever Pillow's readers raise for a malformed file.
    """
    if encoded is None:
        raise Refused("its mask is missing")
    if isinstance(encoded, np.ndarray):
        return encoded
    with opened(encoded) as image:
        image.load()
        if image.format in _LOSSY:
            raise Refused(
                f"its mask is a {image.format}, which does not keep the values of pixels (expected PNG)"
            )
        if colours:
            return np.asarray(image.convert("RGB"))
        if image.mode in ("RGB", "RGBA"):
            return _grey(np.asarray(image.convert("RGB")))
        if image.mode in ("LA", "PA"):
            return np.asarray(image.getchannel(0))
        values = np.asarray(image)
        if values.ndim != 2 or values.dtype.kind == "f":
            raise Refused(f"its mask has the mode {image.mode} (expected whole numbers)")
        # A mask of one bit per pixel is read as truth values. -1 marks pixels that are not labelled.
        return values.astype(np.uint8) if values.dtype == np.bool_ else _labelled(values)


def _labelled(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the values of a mask with the negative ones ignored."""
    signed = values.dtype.kind == "i" and bool((values < 0).any())
    return np.where(values < 0, IGNORED, values) if signed else values


def palette_table(encoded: EncodedImage) -> tuple[int, ...]:
    """Return the palette of a mask, red, green and blue in turn; empty for one without."""
    if not isinstance(encoded, bytes | str):
        return ()
    with opened(encoded) as image:
        return tuple(image.getpalette() or ()) if image.mode == "P" else ()


def palette_of(encoded: EncodedImage) -> dict[int, Colour]:
    """Return the colours that the values of a mask stand for; empty for one without a palette."""
    flat = palette_table(encoded)
    colours = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    used = np.unique(values_of(encoded)).tolist() if colours else []
    return {value: colours[value] for value in used if value < len(colours)}


def _grey(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the values of a mask that was saved with three equal channels."""
    if not ((colours == colours[..., :1]).all()):
        raise Refused(
            "its mask is RGB, and nothing says which colour is which class (expected class_dict.csv"
            " or label_colors.txt)"
        )
    return colours[..., 0]


def read_mask(encoded: EncodedImage, code: MaskCode | None) -> NDArray[np.uint8]:
    """Return the class (H, W) of each pixel of a mask.

    Raises:
        Refused: for a mask that is not understood, with the reason.
    """
    try:
        values = values_of(encoded, colours=bool(code and code.colours))
    except Refused:
        raise
    except Exception as error:  # Pillow's readers raise whatever a malformed file leads them to
        raise Refused(f"its mask cannot be decoded: {reason_of(error, encoded)}") from error
    return code.class_of(values) if code else values.astype(np.uint8)


def decode(
    encoded: Encoded,
    resolution: tuple[int, int],
    background: str = "white",
    scales: Mapping[Depth, Scale] | None = None,
    fit: Fit | None = None,
    pair_fit: PairFit | None = None,
) -> Decoded:
    """Return an image as `nas.data.decoding.decode` does, with its mask where it has one.

    Args:
        encoded: the image, or a pair.
        resolution, background, scales: see `nas.data.decoding.decode`.
        fit: brings an image without a mask to the resolution; by default its centre is cropped.
        pair_fit: brings an image and its mask there; by default both are kept whole (`whole`).
    """
    if not isinstance(encoded, Pair):
        return decode_image(encoded, resolution, background, scales, fit)
    try:
        mask = read_mask(encoded.mask, encoded.code)
    except Refused as error:
        return Decoded(None, str(error))
    fit_both = pair_fit or (lambda image, other: whole(image, other, resolution))

    def both(image: Pillow.Image) -> NDArray[np.uint8]:
        from PIL import Image

        if (image.height, image.width) != mask.shape:
            raise Refused(
                f"its mask has another size than it (got {mask.shape[1]}x{mask.shape[0]}, expected"
                f" {image.width}x{image.height})"
            )
        return fit_both(image, Image.fromarray(mask))

    decoded = decode_image(encoded.image, resolution, background, scales, both)
    if decoded.pixels is not None and bool((mask == IGNORED).all()):
        decoded = replace(decoded, oddities=(*decoded.oddities, "unlabelled"))
    return decoded


def whole(
    image: Pillow.Image, mask: Pillow.Image, resolution: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return an image and its mask (4, H, W), both whole, in the middle of the resolution.

    The sides keep their ratio. What the image does not cover has ImageNet's mean colour, which is 0
    where images are normalised, and is ignored.
    """
    from PIL import Image

    height, width = resolution
    scale = min(height / image.height, width / image.width)
    sides = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    layers = empty_layers(resolution)
    top = (height - sides[1]) // 2
    left = (width - sides[0]) // 2
    part = layers[:, top : top + sides[1], left : left + sides[0]]
    # (H, W, 3) to (3, H, W).
    part[:3] = np.asarray(image.resize(sides, Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    part[3] = np.asarray(mask.resize(sides, Image.Resampling.NEAREST))
    return layers


def empty_layers(resolution: tuple[int, int]) -> NDArray[np.uint8]:
    """Return layers (4, H, W) of the mean colour, ignored everywhere."""
    layers = np.empty((4, *resolution), dtype=np.uint8)
    layers[:3] = np.round(255 * np.array(MEAN)).astype(np.uint8)[:, None, None]
    layers[3] = IGNORED
    return layers
