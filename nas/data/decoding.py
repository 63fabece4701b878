"""Decodes an encoded image into uint8 pixels of one size. What is unusual about it is reported.

`nas.data.map_store` and `nas.data.stream_store` call `decode` from several threads, and the workers
of `nas.training.loader` from several processes. Memory is bounded over all of them: a
header that says more pixels than an image of its size can hold is refused before pixels are read.
"""

from __future__ import annotations

import io
import math
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.data.source import EncodedImage
from nas.quantities import colour_rgb

if TYPE_CHECKING:
    from PIL import Image as Pillow

Depth = Literal["integers", "floats"]
Scale = tuple[float, float]
"""The values that become 0 and 255."""
Fit = Callable[["Pillow.Image"], NDArray[np.uint8]]
"""A function from an RGB image of any size to pixels (3, H, W)."""

_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "MPO", "PPM", "TGA", "JPEG2000", "AVIF"),
    *("HEIF", "ICO", "PCX", "DDS", "SGI", "SUN", "QOI", "XBM", "XPM"),
)
"""Pillow's names of formats that are read. Others start programs, as EPS does, or hold no photos."""

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst", ".mpo", ".ico"),
    *(".pcx", ".dds", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".qoi", ".xbm", ".xpm"),
)
_OPTIONAL_SUFFIXES = {
    "webp": (".webp",),
    "avif": (".avif", ".avifs"),
    "jpg_2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
}
"""Suffixes by the feature of Pillow that reads them, which a build may lack."""
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")

_PILLOW_LIMIT = 89_478_485
"""Pixels from which Pillow warns of a decompression bomb (1 GB of memory / 4 / 3)."""
_MOST_PIXELS = 2 * _PILLOW_LIMIT
"""Pixels that Pillow refuses; no camera has as many."""
_PIXELS_PER_BYTE = 100
"""A photo has less than 10, a blank JPEG up to 100, an image of one bit per pixel up to 8,000."""

_ROOM = 768 << 20
"""Bytes that all images in decoding may take together; a larger image is decoded alone."""
_BYTES_PER_PIXEL = {"opaque": 8, "transparent": 16, "deep": 16}
"""The image as read and as converted; Pillow keeps RGB in 4 bytes."""

_LARGE_PNG = 8 << 20
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT_CHUNKS = (b"tRNS", b"eXIf")
"""Chunks of a PNG that change its pixels or orientation, beside the critical ones."""

_TOLERANCE = 0.05
"""Share of a range by which resampled values may pass it, as 255.3 or -0.01."""


@dataclass(frozen=True)
class Decoded:
    """What became of an image.

    Attributes:
        pixels: (3, H, W) uint8, or None.
        error: why there are none; empty otherwise.
        oddities: keys of `ODDITIES` that hold for the image.
        depth: for an image of more than 8 bits whose scale was not given: what its values are.
        values: the lowest and highest of these values.
    """

    pixels: NDArray[np.uint8] | None
    error: str = ""
    oddities: tuple[str, ...] = ()
    depth: Depth | None = None
    values: Scale = (0.0, 0.0)


ODDITIES = {
    "transparent": "with transparent pixels, laid on {background}",
    "exif": "with EXIF data that cannot be read, used without its orientation",
    "metadata": "with metadata that cannot be read, used without it",
    "frames": "with several frames or pages, of which the first is used",
    "integers": "of more than 8 bits, scaled from {integers} to 0..255",
    "floats": "of floating-point values, scaled from {floats} to 0..255",
    "unlabelled": "whose masks are ignored everywhere, so that nothing is learnt from them",
}
"""What notes say of images, by kind."""


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of files that the installed Pillow decodes, in lower case."""
    from PIL import features

    found = {suffix for suffix in _SUFFIXES}
    for feature, suffixes in _OPTIONAL_SUFFIXES.items():
        if features.check(feature):
            found.update(suffixes)
    if _register_heif():
        found.update(_HEIF_SUFFIXES)
    return frozenset(found)


@cache
def _formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that it can read here."""
    from PIL import Image

    # Loads all of Pillow's readers; before that it knows the most common ones alone.
    Image.init()
    _register_heif()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def _register_heif() -> bool:
    """Let Pillow read HEIC where the package pillow-heif is installed; return whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def decode(
    encoded: EncodedImage,
    resolution: tuple[int, int],
    background: str = "white",
    scales: Mapping[Depth, Scale] | None = None,
    fit: Fit | None = None,
) -> Decoded:
    """Return an image as uint8 (3, H, W), or the reason why it cannot be decoded.

    The image is turned as its EXIF data say, laid on the background where it is transparent, its
    short side is resized (bicubic), and its centre is cropped.

    Args:
        encoded: the image.
        resolution: (height, width) in pixels.
        background: a colour; see `nas.quantities.colour`.
        scales: of images with more than 8 bits per channel. Without them such an image gets no
            pixels, and its values are reported, from which `scale_of` makes the scale of a data
            set.
        fit: brings the image to the resolution in another way, such as a random crop.
    """
    if encoded is None:
        return Decoded(None, "it has no data")
    fit = fit or partial(_fitted, resolution=resolution)
    try:
        return _decode(encoded, fit, background, scales, without_metadata=False)
    except Exception as error:  # Pillow's readers raise whatever a malformed file leads them to
        if not isinstance(error, Refused) and _is_png(encoded):
            # Pillow gives up on a text or a profile that is too large or damaged. The pixels may be
            # fine without it.
            try:
                again = _decode(encoded, fit, background, scales, without_metadata=True)
            except Exception:  # as above; the first error is the one to report
                return Decoded(None, reason_of(error, encoded))
            return Decoded(
                again.pixels, "", (*again.oddities, "metadata"), again.depth, again.values
            )
        return Decoded(None, reason_of(error, encoded))


class Refused(ValueError):
    """The header of an image says what is not to be decoded."""


_NO_IMAGES = {
    b"version https://git-lfs": "it is a pointer of Git LFS; git lfs pull fetches the image",
    b"<!doctype html": "it is an HTML page, as a failed download leaves it",
    b"<html": "it is an HTML page, as a failed download leaves it",
    b"%!ps": "it is PostScript, which is a program and is not run",
}
"""What files of images often hold instead, by their first bytes in lower case."""


def reason_of(error: Exception, encoded: EncodedImage) -> str:
    """Return why an image cannot be decoded, in one line."""
    from PIL import UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return (str(error).splitlines() or [type(error).__name__])[0]
    # Pillow's message has an address in memory.
    head = _head(encoded, 64).lstrip().lower()
    if not head:
        return "it is empty"
    found = (reason for start, reason in _NO_IMAGES.items() if head.startswith(start))
    return next(found, "it is not an image of a format that is read here")


def _head(encoded: EncodedImage, size: int) -> bytes:
    """Return the first bytes of an image; none where it cannot be read."""
    if isinstance(encoded, bytes):
        return encoded[:size]
    if not isinstance(encoded, str):
        return b""
    try:
        with open(encoded, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def _decode(
    encoded: Any,
    fit: Fit,
    background: str,
    scales: Mapping[Depth, Scale] | None,
    without_metadata: bool,
) -> Decoded:
    from PIL import Image

    if isinstance(encoded, np.ndarray):
        return Decoded(fit(Image.fromarray(encoded).convert("RGB")))
    size = len(encoded) if isinstance(encoded, bytes) else Path(encoded).stat().st_size
    if without_metadata or (size > _LARGE_PNG and _is_png(encoded)):
        with io.BytesIO(encoded) if isinstance(encoded, bytes) else open(encoded, "rb") as stream:
            # Pillow reads texts and profiles of a PNG whole, however large; here they are left out.
            head = stream.read(24)
            stream.seek(0)
            pixels = _checked(*_png_sides(head), size)
            with (
                _room.taken(size + pixels * _BYTES_PER_PIXEL["deep"]),
                Image.open(_without_metadata(stream), formats=_formats()) as image,
            ):
                return _converted(image, fit, background, scales)
    with opened(encoded) as image:
        return _converted(image, fit, background, scales)


@contextmanager
def opened(encoded: bytes | str) -> Iterator[Pillow.Image]:
    """Context manager: an image whose header was checked; inside, memory for its pixels is held.

    Raises:
        Refused: for a header that says more pixels than an image of its size can hold.
    """
    from PIL import Image

    size = len(encoded) if isinstance(encoded, bytes) else Path(encoded).stat().st_size
    with (
        io.BytesIO(encoded) if isinstance(encoded, bytes) else open(encoded, "rb") as stream,
        Image.open(stream, formats=_formats()) as image,
    ):
        pixels = _checked(image.width, image.height, size)
        with _room.taken(size + pixels * _BYTES_PER_PIXEL[_kind(image)]):
            yield image


def _png_sides(head: bytes) -> tuple[int, int]:
    """Return the width and the height in the first 24 bytes of a PNG."""
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def _checked(width: int, height: int, size: int) -> int:
    """Return the number of pixels that a header says.

    Raises:
        Refused: for more than an image of so many bytes can hold, or than any should.
    """
    pixels = width * height
    if pixels > _MOST_PIXELS or (
        pixels > _PILLOW_LIMIT and pixels > _PIXELS_PER_BYTE * max(size, 1)
    ):
        raise Refused(
            f"its header says {width}x{height} pixels in {_size(size)}, which is taken for a"
            " decompression bomb"
        )
    return pixels


def _size(size: int) -> str:
    return f"{size / 1000:.0f} kB" if size < 1e6 else f"{size / 1e6:.0f} MB"


def _kind(image: Pillow.Image) -> str:
    if _depth(image.mode) is not None:
        return "deep"
    return "transparent" if image.has_transparency_data else "opaque"


def _depth(mode: str) -> Depth | None:
    """Return what the values of an image with more than 8 bits are, by Pillow's mode."""
    if mode == "F":
        return "floats"
    return "integers" if mode.startswith("I") else None


def _converted(
    image: Pillow.Image,
    fit: Fit,
    background: str,
    scales: Mapping[Depth, Scale] | None,
) -> Decoded:
    """Return the pixels of an opened image."""
    image.load()
    oddities: list[str] = []
    depth = _depth(image.mode)
    if depth is not None:
        oddities.append(depth)
        if scales is None or depth not in scales:
            return Decoded(None, "", (), depth, _values(image))
    if _has_frames(image):
        oddities.append("frames")
    upright: Pillow.Image = image
    try:
        upright = _upright(image)
    except Exception:  # Pillow's readers of EXIF raise whatever malformed entries lead them to
        oddities.append("exif")
    if depth is not None and scales is not None:
        upright = _scaled(upright, scales[depth])
    flat, transparent = _on_background(upright, background)
    if transparent:
        oddities.append("transparent")
    return Decoded(fit(flat), "", tuple(oddities))


def _fitted(image: Pillow.Image, resolution: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an RGB image resized and cropped, as (3, H, W)."""
    from PIL import Image, ImageOps

    height, width = resolution
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    # (H, W, 3) to (3, H, W).
    return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))


def _has_frames(image: Pillow.Image) -> bool:
    """Return whether an image has further frames or pages. Phones keep a preview in an MPO."""
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except Exception:  # a damaged second frame is not used
        return False


def _upright(image: Pillow.Image) -> Pillow.Image:
    """Return an image as its EXIF data say it is to be seen.

    Phones store a photo as the sensor saw it, and its rotation in the EXIF header. Pillow's own
    `exif_transpose` writes the header anew, which fails for entries that have no part in this.
    """
    from PIL import ExifTags
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    method = methods.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _on_background(image: Pillow.Image, background: str) -> tuple[Pillow.Image, bool]:
    """Return an image as RGB, and whether it had pixels that are not opaque.

    Transparent pixels have a colour of their own that nobody ever saw; it is often black.
    """
    from PIL import Image

    if image.has_transparency_data:
        layers = image.convert("RGBA")
        if np.asarray(layers.getchannel("A")).min() < 255:
            below = Image.new("RGBA", layers.size, (*colour_rgb(background), 255))
            below.alpha_composite(layers)
            return below.convert("RGB"), True
    return (image if image.mode == "RGB" else image.convert("RGB")), False


# Images of more than 8 bits.


def _values(image: Pillow.Image) -> Scale:
    """Return the lowest and the highest value of an image; NaN and infinities do not count.

    Raises:
        ValueError: when no value is finite.
    """
    values = np.asarray(image)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        raise ValueError("it has no finite value")
    return float(finite.min()), float(finite.max())


def scale_of(depth: Depth, low: float, high: float) -> Scale:
    """Return the values that become 0 and 255, for images with values from `low` to `high`.

    Files do not say which part of their range they use: 12 bits of a scanner in 16 bits of a file
    are common. So the range is the smallest usual one that holds all images of a data set. It
    depends little on single images, and pictures of one set stay comparable.
    """
    if depth == "integers":
        bounds = [(1 << bits) - 1 for bits in (8, 10, 12, 14, 16, 24, 32)]
        top = float(next(bound for bound in bounds if high <= bound))
    else:
        limits = (each for each in (1.0, 255.0, 65535.0) if high <= each * (1 + _TOLERANCE))
        top = next(limits, 0.0) or _power(high)
    bottom = 0.0 if low >= -_TOLERANCE * top else -_power(-low)
    return bottom, top


def _power(value: float) -> float:
    """Return the smallest power of two that is not below a positive value."""
    return 2.0 ** math.ceil(math.log2(value))


def _scaled(image: Pillow.Image, scale: Scale) -> Pillow.Image:
    """Return a grey image of 8 bits from one of more."""
    from PIL import Image

    low, high = scale
    values = np.asarray(image).astype(np.float32)
    values -= low
    values *= 255 / (high - low)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    np.clip(values, 0, 255, out=values)
    return Image.fromarray(np.rint(values).astype(np.uint8))


# Streams and memory.


def _is_png(encoded: EncodedImage) -> bool:
    return _head(encoded, len(_PNG_SIGNATURE)) == _PNG_SIGNATURE


def _without_metadata(stream: IO[bytes]) -> IO[bytes]:
    """Return a PNG with its critical chunks, transparency and EXIF data; others are not read."""
    kept = io.BytesIO()
    kept.write(stream.read(len(_PNG_SIGNATURE)))
    while len(head := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        # Critical chunks have a capital first.
        if name[:1].isupper() or name in _KEPT_CHUNKS:
            kept.write(head)
            kept.write(stream.read(length + 4))
        else:
            stream.seek(length + 4, io.SEEK_CUR)
        if name == b"IEND":
            break
    kept.seek(0)
    return kept


class _Room:
    """Memory that threads share: a large image waits until others are done."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._size = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold so many bytes inside the block, or all where more are asked for."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


_room = _Room(_ROOM)
