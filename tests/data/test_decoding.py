"""Decoding of single images: depths, transparency, damaged metadata, bombs."""

from __future__ import annotations

import io
import math
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pictures import noise
from PIL import Image, features

from nas.data import decoding
from nas.data.decoding import Decoded, decode, readable_suffixes, scale_of
from nas.quantities import colour, colour_rgb

SIZE = (8, 8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(decoded: Decoded) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert decoded.pixels is not None, decoded.error
    assert decoded.pixels.shape == (3, *SIZE) and decoded.pixels.dtype == np.uint8
    return decoded.pixels


def test_the_centre_is_kept() -> None:
    """A wide picture, left half red and right half blue: the centre square has both equally."""
    picture = Image.new("RGB", (200, 50), (200, 0, 0))
    picture.paste((0, 0, 200), (100, 0, 200, 50))
    found = pixels(decode(encoded(picture), SIZE))
    assert tuple(found[:, 4, 0]) == (200, 0, 0) and tuple(found[:, 4, 7]) == (0, 0, 200)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA", "LAB"])
def test_every_mode_of_8_bits_is_taken(mode: str) -> None:
    image = Image.new(mode, (9, 9))
    pixels(decode(encoded(image, "PNG" if mode == "LA" else "TIFF"), SIZE))


def test_ordinary_images_have_the_pixels_of_earlier_versions() -> None:
    """Trainings recognise their images by a hash of these pixels."""
    from PIL import ImageOps

    for image in (noise(1, (40, 30)), noise(2, (9, 70)).convert("L"), noise(3).convert("P")):
        expected = ImageOps.fit(image.convert("RGB"), (8, 8), Image.Resampling.BICUBIC)
        found = pixels(decode(encoded(image), SIZE))
        assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))


# More than 8 bits.


def ramp(top: float, dtype: Any) -> Image.Image:
    return Image.fromarray((np.tile(np.linspace(0, 1, 8), (8, 1)) * top).astype(dtype))


@pytest.mark.parametrize(
    ("image", "kind", "depth"),
    [
        (ramp(65535, np.uint16), "PNG", "integers"),
        (ramp(65535, np.uint16), "TIFF", "integers"),
        (ramp(65535, np.int32), "TIFF", "integers"),
        (ramp(1.0, np.float32), "TIFF", "floats"),
    ],
)
def test_deep_images_are_scaled(image: Image.Image, kind: str, depth: decoding.Depth) -> None:
    data = encoded(image, kind)
    first = decode(data, SIZE)
    assert first.pixels is None and first.depth == depth and not first.error
    scale = scale_of(depth, *first.values)
    found = decode(data, SIZE, scales={depth: scale})
    assert depth in found.oddities
    expected = np.linspace(0, 255, 8)
    assert np.abs(pixels(found)[0, 0].astype(float) - expected).max() <= 1


def test_12_bits_in_16_fill_the_range() -> None:
    data = encoded(ramp(4000, np.uint16))
    scale = scale_of("integers", *decode(data, SIZE).values)
    assert scale == (0, 4095)
    assert pixels(decode(data, SIZE, scales={"integers": scale})).max() > 240


@pytest.mark.parametrize(
    ("depth", "low", "high", "scale"),
    [
        ("integers", 0, 255, (0, 255)),
        ("integers", 3, 256, (0, 1023)),
        ("integers", 0, 65535, (0, 65535)),
        ("integers", 0, 2**31 - 1, (0, 2**32 - 1)),
        ("integers", -1024, 3071, (-1024, 4095)),
        ("floats", 0.15, 0.9, (0, 1)),
        ("floats", -0.01, 1.02, (0, 1)),
        ("floats", -1, 1, (-1, 1)),
        ("floats", 0, 254.7, (0, 255)),
        ("floats", 0, 4000, (0, 65535)),
        ("floats", 0, 1e6, (0, 2**20)),
        ("floats", 0, 0, (0, 1)),
        ("floats", -5, -3, (-8, 1)),
    ],
)
def test_scales(depth: decoding.Depth, low: float, high: float, scale: tuple[float, float]) -> None:
    assert scale_of(depth, low, high) == scale


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_a_scale_holds_its_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    bottom, top = scale_of("floats", low, high)
    assert bottom < top
    slack = 0.06 * (top - bottom)
    assert bottom - slack <= low and high <= top + slack


def test_floats_that_are_no_numbers() -> None:
    values = np.full((8, 8), np.nan, dtype=np.float32)
    assert "finite" in decode(encoded(Image.fromarray(values), "TIFF"), SIZE).error
    values[0, 0], values[0, 1] = 0.5, math.inf
    data = encoded(Image.fromarray(values), "TIFF")
    assert decode(data, SIZE).values == (0.5, 0.5)
    found = pixels(decode(data, SIZE, scales={"floats": (0.0, 1.0)}))
    assert found.shape == (3, 8, 8)


# Transparency.


@pytest.mark.parametrize("background", ["white", "black", "#102030"])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "transparency"])
def test_transparent_pixels_show_the_background(background: str, kind: str) -> None:
    image = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    options: dict[str, Any] = {}
    if kind == "transparency":
        image = Image.new("RGB", (8, 8), (1, 2, 3))
        options["transparency"] = (1, 2, 3)
    elif kind != "RGBA":
        image = image.convert(kind)
    found = decode(encoded(image, **options), SIZE, background)
    assert tuple(pixels(found)[:, 3, 3]) == colour_rgb(background)
    assert found.oddities == ("transparent",)


def test_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert 126 <= pixels(decode(encoded(image), SIZE))[0, 0, 0] <= 128


def test_an_opaque_alpha_changes_nothing() -> None:
    image = noise(4, (8, 8))
    opaque = image.convert("RGBA")
    found = decode(encoded(opaque), SIZE, "black")
    assert found.oddities == ()
    assert np.array_equal(pixels(found), pixels(decode(encoded(image), SIZE)))


@pytest.mark.parametrize(
    ("text", "name"), [(" White", "white"), ("gray", "grey"), ("#A0b1C2", "#a0b1c2")]
)
def test_colours(text: str, name: str) -> None:
    assert colour(text) == name
    assert all(0 <= each <= 255 for each in colour_rgb(name))


@pytest.mark.parametrize("text", ["", "red", "#fff", "#12345g", "0", "#ffffff "[:-2]])
def test_what_is_no_colour(text: str) -> None:
    with pytest.raises(ValueError, match="expected white, grey, black or #rrggbb"):
        colour(text)


# Metadata.


def exif(orientation: int, resolution: tuple[int, int] = (72, 1)) -> bytes:
    entries = [
        (0x0112, 3, 1, struct.pack("<HH", orientation, 0)),
        (0x011A, 10, 1, struct.pack("<I", 38)),
    ]
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    head = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return head + table + struct.pack("<I", 0) + struct.pack("<ii", *resolution)


def test_bad_exif_costs_nothing_but_what_is_bad() -> None:
    picture = Image.new("RGB", (8, 8), (200, 0, 0))
    picture.paste((0, 0, 200), (4, 0, 8, 8))
    turned = decode(encoded(picture, "JPEG", exif=exif(6, (-1, 0)), quality=95), SIZE)
    # Turned to the right: the left half is at the top.
    assert pixels(turned)[0, 0, 4] > 150 and pixels(turned)[2, 7, 4] > 150
    assert turned.oddities == ()
    for data in (b"Exif\0\0not a header", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        plain = decode(encoded(picture, "JPEG", exif=data, quality=95), SIZE)
        assert pixels(plain)[0, 4, 0] > 150


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    sum_ = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", sum_)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"tEXt", b"x\0y", crc=7),
        chunk(b"iCCP", b"x\0\1rest"),
    ],
)
def test_texts_and_profiles_of_a_png_do_not_lose_it(extra: bytes, tmp_path: Path) -> None:
    image = noise(5, (8, 8)).convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    plain = encoded(image)
    data = plain[:33] + extra + plain[33:]
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for given_ in (data, str(path)):
        found = decode(given_, SIZE)
        assert np.array_equal(pixels(found), pixels(decode(plain, SIZE)))
        assert set(found.oddities) == {"transparent", "metadata"}


def test_large_pngs_are_read_without_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_LARGE_PNG", 100)
    plain = encoded(noise(6, (8, 8)))
    data = plain[:33] + chunk(b"tEXt", b"k\0" + b"v" * 5000) + plain[33:]
    assert np.array_equal(pixels(decode(data, SIZE)), pixels(decode(plain, SIZE)))


@given(st.data())
def test_a_damaged_image_is_an_image_or_a_reason(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
    whole = bytearray(encoded(noise(7), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    found = decode(cut, SIZE)
    assert (found.pixels is None) == bool(found.error) or found.depth is not None
    assert "\n" not in found.error


@pytest.mark.parametrize("given_", [None, b"", b"no image", "/nowhere/x.png"])
def test_what_is_no_image_has_a_reason(given_: Any) -> None:
    assert decode(given_, SIZE).error


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "PostScript"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE HTML><html>Not found</html>", "HTML"),
        (b"", "empty"),
        (b"GIF but no picture", "not an image"),
    ],
)
def test_files_that_are_no_images_say_what_they_are(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    for given_ in (data, str(tmp_path / "a.png")):
        assert reason in decode(given_, SIZE).error


def test_the_first_of_several_frames_is_used() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    found = decode(data, SIZE)
    assert tuple(pixels(found)[:, 0, 0]) == (200, 0, 0)
    assert found.oddities == ("frames",)


@pytest.mark.parametrize("kind", [("avif", ".avif", "AVIF"), ("webp", ".webp", "WEBP")])
def test_what_pillow_reads_is_listed(kind: tuple[str, str, str]) -> None:
    feature, suffix, name = kind
    assert (suffix in readable_suffixes()) == features.check(feature)
    if features.check(feature):
        pixels(decode(encoded(noise(8, (8, 8)), name), SIZE))


# Bombs.


def bomb(side: int) -> bytes:
    """Return a PNG of one bit per pixel, all black."""
    compress = zlib.compressobj(9)
    row = bytes(side // 8 + 2)
    data = b"".join(compress.compress(row) for _ in range(side)) + compress.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [10_000, 15_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded")
    )
    data = bomb(100).replace(struct.pack(">II", 100, 100), struct.pack(">II", side, side))
    head = data[12:29]
    data = data[:29] + struct.pack(">I", zlib.crc32(head)) + data[33:]
    found = decode(data, SIZE)
    assert found.pixels is None and "bomb" in found.error


def test_large_images_wait_for_one_another() -> None:
    room = decoding._Room(100)
    most = 0
    held = 0
    lock = threading.Lock()

    def work(size: int) -> None:
        nonlocal most, held
        with room.taken(size):
            with lock:
                held += min(size, 100)
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= min(size, 100)

    threads = [threading.Thread(target=work, args=(size,)) for size in (60, 70, 30, 500, 10) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 100


@given(st.floats(1e-30, 1e30))
def test_powers(value: float) -> None:
    assume(math.isfinite(value))
    power = decoding._power(value)
    assert power >= value > power / 2 * 0.999999
