"""Pictures, image folders and parquet files for tests of `nas.data`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

RED, BLUE = (200, 0, 0), (0, 0, 200)
RED_AND_BLUE = {"red": RED, "blue": BLUE}


def png(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (40, 48)) -> bytes:
    """Return a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def noise(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(folder: Path, colours: dict[str, tuple[int, int, int]], count: int = 10) -> Path:
    """Make class folders with pictures of one colour each."""
    return tree(
        folder, *(f"{name}/{i}.png" for name in colours for i in range(count)), colours=colours
    )


def tree(folder: Path, *paths: str, colours: dict[str, tuple[int, int, int]] | None = None) -> Path:
    """Make pictures at some paths; their colour is that of a folder above them, if any."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = next((c for name, c in (colours or {}).items() if name in file.parts), RED)
        file.write_bytes(png(colour))
    return folder


def rows(count: int) -> list[bytes]:
    """Return pictures, of which every other one is red."""
    return [png(RED if i % 2 else BLUE) for i in range(count)]


def write_parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path
