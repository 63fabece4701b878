"""Cache of decoded images: decodes a data set once into memory-mapped uint8 files.

`nas.data.load_data` calls `cached`. A cached data set is a folder with `train.u8` (N, 3, H, W),
`train.labels.npy`, the same two files of `test` if it exists, and `data.json`. It is made under
another name and renamed when complete, so that a kill or a full disk leaves nothing that looks
finished.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.images import ImageData, note, stratified_order
from nas.data.sources import Encoded, RawSplit, Source
from nas.errors import InputError, NasError
from nas.files import text_sha256

_FORMAT = "nas-data-1"
_CHUNK = 256
"""Images that are decoded at once, a bound on the memory for encoded and decoded images."""
_NAMED = 3
"""Maximum number of broken images that a message names."""
_PATIENCE_S = 2.0
"""Seconds before a progress bar is shown."""


def cached(
    source: Source, resolution: tuple[int, int], limit: int | None, seed: int
) -> dict[str, ImageData]:
    """Return the splits of a source, 'train' and perhaps 'test', in stratified order.

    They are decoded now unless the cache has them.

    Raises:
        InputError: for data that cannot be used; see `nas.data.load_data`.
        NasError: when the cache could not be written.
    """
    from filelock import FileLock

    # The source's key changes when its files do, so a changed data set is decoded again.
    key = text_sha256(repr((_FORMAT, source.key, resolution, limit, seed)))[:20]
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nas" / "data"
    folder = (
        root / f"{Path(source.name).name.replace('*', '_')}-{resolution[0]}x{resolution[1]}-{key}"
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        # All processes of one training come here at the same time: the first decodes, the others
        # wait.
        with FileLock(f"{folder}.lock"):
            if not _whole(folder):
                _make(folder, source, resolution, limit, seed)
        return _open(folder, source.name)
    except OSError as error:
        raise NasError(
            f"{folder}: the decoded images could not be saved ({error.strerror or error}). Fix: set"
            " XDG_CACHE_HOME to a folder with room"
        ) from error


def _whole(folder: Path) -> bool:
    """Return whether a cached data set is complete, which means full-size files of pixels."""
    try:
        splits = json.loads((folder / "data.json").read_text(encoding="utf-8"))["splits"]
        return all(
            (folder / f"{name}.u8").stat().st_size == np.prod(split["shape"])
            for name, split in splits.items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _open(folder: Path, name: str) -> dict[str, ImageData]:
    """Return the splits of a cached data set as read-only memory maps."""
    about = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    found = {}
    for part, split in about["splits"].items():
        if split["skipped"]:
            note(split["broken"])
        found[part] = ImageData(
            images=np.memmap(
                folder / f"{part}.u8", dtype=np.uint8, mode="r", shape=tuple(split["shape"])
            ),
            labels=np.load(folder / f"{part}.labels.npy", allow_pickle=False),
            classes=tuple(about["classes"]),
            skipped=split["skipped"],
            source=about["source"] + ("" if part == "train" else f"; {part} split"),
            fingerprint=split["fingerprint"],
            name=name,
        )
    return found


def _make(
    folder: Path, source: Source, resolution: tuple[int, int], limit: int | None, seed: int
) -> None:
    """Decode a source into a folder that does not exist yet or is incomplete."""
    part = folder.with_name(f"{folder.name}.part")
    # The lock is held and `_whole` refused the folder, so a killed run left these.
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir()
    try:
        raw = source.read()
        classes, labels = _classes(source.name, raw)
        size = f"{resolution[0]}x{resolution[1]}"
        about: dict[str, Any] = {
            "format": _FORMAT,
            "source": f"{source.description}, {len(classes)} classes, resized to {size}",
            "classes": classes,
            "splits": {},
        }
        for name, split in raw.items():
            # A prefix of a stratified order is stratified: a limit keeps the shares of the classes.
            order = stratified_order(labels[name], seed)[:limit]
            about["splits"][name] = _write_split(
                part, source.name, name, split, labels[name], order, resolution, classes
            )
        (part / "data.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _classes(
    name: str, raw: dict[str, RawSplit]
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Return the names of the classes, and each split's labels (N,) as indices into them.

    A test split whose labels are withheld (-1 or None, as on the hub) is removed from `raw`.

    Raises:
        InputError: for missing or unknown labels, and for fewer than two classes.
    """
    train = raw["train"]
    for label in train.labels:
        if label is None or (train.names is not None and not 0 <= label < len(train.names)):
            raise InputError(f"data {name}: a training image has no label (got {label})")
    values: list[Any] = list(range(len(train.names))) if train.names else sorted(set(train.labels))
    classes = train.names or tuple(str(value) for value in values)
    present = sorted(set(train.labels))
    if len(present) < 2:
        got = f"only the class '{classes[values.index(present[0])]}'" if present else "no class"
        raise InputError(
            f"data {name}: has too few classes to train on (got {got}, expected at least two)"
        )
    if "test" in raw and all(label is None or label == -1 for label in raw["test"].labels):
        note(f"data {name}: the test split has no labels and is not used")
        del raw["test"]
    index = {value: position for position, value in enumerate(values)}
    for split in raw.values():
        unknown = next((label for label in split.labels if label not in index), None)
        if unknown is not None:
            raise InputError(
                f"data {name}: the test split has the class '{unknown}', which the train split"
                " lacks"
            )
    labels = {
        k: np.array([index[label] for label in split.labels], dtype=np.int64)
        for k, split in raw.items()
    }
    return classes, labels


def _write_split(
    part: Path,
    data: str,
    name: str,
    split: RawSplit,
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
    resolution: tuple[int, int],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Decode a split in this order into `name`.u8, and return its entry of data.json.

    Broken images are left out.

    Raises:
        InputError: when most images are broken, or all images but those of one class.
    """
    broken: list[str] = []
    kept: list[int] = []
    digest = hashlib.sha256(repr((tuple(classes), resolution)).encode())
    # Written as a plain file, which raises an error on a full disk. Writing through a memory map
    # would kill the process instead.
    with (
        (part / f"{name}.u8").open("wb") as file,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for chunk in _with_progress(order, f"decoding {data} ({name})"):
            # `map` keeps the order. Only one chunk of images is in memory at a time.
            decoded = pool.map(
                lambda item: decode(item[1], resolution), found := split.fetch(chunk)
            )
            for index, (where, _), pixels in zip(chunk, found, decoded, strict=True):
                if isinstance(pixels, str):
                    broken.append(f"{where}: {pixels}")
                else:
                    kept.append(index)
                    data_bytes = pixels.tobytes()
                    digest.update(data_bytes)
                    file.write(data_bytes)
    unusable = (
        f"{len(broken)} of {len(order)} images that are broken ({'; '.join(broken[:_NAMED])})"
    )
    if len(broken) > len(order) / 2 or len(np.unique(labels[kept])) < min(
        2, len(np.unique(labels))
    ):
        raise InputError(f"data {data}: {unusable}. Fix: repair or remove them")
    np.save(part / f"{name}.labels.npy", labels[kept], allow_pickle=False)
    digest.update(labels[kept].tobytes())
    return {
        "shape": [len(kept), 3, *resolution],
        "skipped": len(broken),
        "broken": f"data {data}: skipped {unusable}",
        "fingerprint": digest.hexdigest(),
    }


def decode(encoded: Encoded, resolution: tuple[int, int]) -> NDArray[np.uint8] | str:
    """Return an image as uint8 (3, H, W), or the reason why it cannot be decoded.

    The short side is resized (bicubic), then the centre is cropped.
    """
    from PIL import Image, ImageOps

    if encoded is None:
        return "it has no data"
    try:
        if isinstance(encoded, np.ndarray):
            image = Image.fromarray(encoded)
        else:
            image = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
            # Phones store a photo as the sensor records it, with its rotation in the EXIF header.
            image = ImageOps.exif_transpose(image)
        height, width = resolution
        fitted = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BICUBIC)
    # PIL's readers raise exceptions of any class on malformed files.
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    # (H, W, 3) to (3, H, W).
    return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))


def _with_progress(order: NDArray[np.int64], what: str) -> Iterator[list[int]]:
    """Yield the indices of `order` in chunks, with a progress bar on stderr after a while."""
    from rich.console import Console
    from rich.progress import Progress

    started = time.monotonic()
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    task = bar.add_task(what, total=len(order))
    try:
        for start in range(0, len(order), _CHUNK):
            if time.monotonic() - started > _PATIENCE_S:
                bar.start()
            yield order[start : start + _CHUNK].tolist()
            bar.advance(task, _CHUNK)
    finally:
        bar.stop()
