"""The plan of a bundle and its files: read, and checked against damage and strangers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

    Entry = dict[str, Any]

FORMAT = "nas-bundle-1"
PLAN_FILE = "plan.json"
MOST_BYTES = 1 << 28
"""Maximum size of a plan and of results; real ones have some MB."""
MOST_FILE_BYTES = 1 << 31
"""Maximum size of a file to measure: offsets in a .tflite file have 31 bits."""
_BLOCK = 1 << 22
"""Bytes per read, 4 MiB: a board has little memory."""
MOST_LETTERS = 1000
"""Maximum length of a text in a plan."""
MOST_COUNT = 1 << 53
"""Whole numbers from here on are not exact in other programs."""


def read_plan(folder: Path, *, complete: bool = True, fix: str = "") -> Entry:
    """Return the plan of a bundle.

    Args:
        folder: of the bundle.
        complete: whether files that are still to be written are an error.
        fix: remedy of a damaged plan (default: to copy or to write the bundle again, by cause).

    Raises:
        BundleError: when it cannot be read, is damaged, or names something outside of the bundle.
    """
    again = fix or "write the bundle again"
    path = folder / PLAN_FILE
    # utf-8-sig: editors on Windows put a byte-order mark before the text.
    try:
        plan: Entry = json.loads(read_file(path).decode("utf-8-sig"))
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}). Fix: give the folder of a bundle"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{path}: is damaged ({error}). Fix: {fix or 'copy the bundle again'}"
        ) from None
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise BundleError(f"{path}: is not a plan of the format {FORMAT}. Fix: {again}")
    wrong = _wrong_key(plan)
    if wrong:
        raise BundleError(f"{path}: {wrong[:100]}: is missing or damaged. Fix: {again}")
    _check_names(path, plan, again)
    # The plan is on disk before the files. Each entry gets its checksum when its file is written.
    if complete and any(
        entry["sha256"] is None and "failed" not in entry for entry in plan["files"]
    ):
        raise BundleError(
            f"{path}: the bundle is not complete. Fix: run the command that writes it again"
        )
    return plan


def read_file(path: Path) -> bytes:
    """Return the content of a regular file. Raises BundleError for a pipe, a device, a huge file."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise BundleError(f"{path}: is not a file. Fix: copy the bundle again")
    if state.st_size > MOST_BYTES:
        raise BundleError(f"{path}: is too large. Fix: copy the bundle again")
    return path.read_bytes()


def _check_names(path: Path, plan: Entry, fix: str) -> None:
    """Raise BundleError for a name in the plan that leads out of the bundle, or out of its table.

    A bundle may come from a stranger: its plan must not make this machine read, run or write
    anything elsewhere.
    """
    name = plan["device"].get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise BundleError(f"{path}: device: {name!r} is not a name. Fix: {fix}")
    for entry in plan["files"]:
        file = entry["file"]
        if not isinstance(file, str) or not (file == "" or is_inside(file)):
            raise BundleError(f"{path}: {file!r} is not a file of this bundle. Fix: {fix}")


def is_inside(file: str) -> bool:
    """Return whether a relative path names something below its folder, on every system."""
    parts = file.split("/")
    return not any(part in ("", ".", "..") or re.search(r"[\\:\0]", part) for part in parts)


def check_text(value: object) -> bool:
    """Return whether a value is a text of at most 1,000 characters without control characters."""
    return isinstance(value, str) and len(value) <= MOST_LETTERS and value.isprintable()


def check_count(value: object, least: int = 0) -> bool:
    """Return whether a value is a whole number of at least `least` that is not absurd."""
    return type(value) is int and least <= value < MOST_COUNT


def _wrong_key(plan: Entry) -> str:
    """Return the first key that is missing or has a value of the wrong type; "" without one."""
    checks: dict[str, Callable[[Any], bool]] = {
        "id": check_text,
        "device": lambda value: isinstance(value, dict),
        "space": check_text,
        "resolution": check_text,
        "copies": lambda value: check_count(value, 2),
        "check": lambda value: isinstance(value, dict),
        "tools": lambda value: isinstance(value, dict) and all(map(check_text, value.values())),
        "files": lambda value: isinstance(value, list),
    }
    for key, is_right in checks.items():
        if not is_right(plan.get(key)):
            return key
    device = plan["device"]
    for key in ("name", "kind"):
        if not check_text(device.get(key)):
            return "device." + key
    # The others may be left out. A number of threads is one, everything else is text.
    for key, value in device.items():
        if key == "threads":
            if value is not None and not check_count(value, 1):
                return "device.threads"
        elif not isinstance(value, dict) and value is not None and not check_text(value):
            return "device." + str(key)
    for key in ("nets", "seed"):
        if not check_count(plan["check"].get(key)):
            return "check." + key
    for number, entry in enumerate(plan["files"]):
        wrong = wrong_in_file(entry)
        if wrong:
            return f"files[{number}].{wrong}"
    return ""


def wrong_in_file(entry: object) -> str:
    """Return the first wrong key of an entry of a file; "" without one."""
    if not isinstance(entry, dict):
        return "digest"
    # A digest is a part of the names of files.
    if not isinstance(entry.get("digest"), str) or not re.fullmatch(
        r"[0-9a-z]{1,64}", entry["digest"]
    ):
        return "digest"
    for key in ("role", "label", "file"):
        if not check_text(entry.get(key)):
            return key
    if "sha256" not in entry or not (entry["sha256"] is None or check_text(entry["sha256"])):
        return "sha256"
    if "failed" in entry and not isinstance(entry["failed"], str):
        return "failed"
    return ""


def check_file(folder: Path, entry: Entry) -> Path:
    """Return the path of an undamaged file of the bundle. Raises BundleError."""
    path = Path(folder, entry["file"])
    # A link may lead out of the bundle, whatever its name.
    inside = Path(folder).resolve()
    if inside not in path.resolve().parents or not is_inside(entry["file"]):
        raise BundleError(f"{path}: is not a file of this bundle. Fix: copy the bundle again")
    if not path.exists():
        raise BundleError(f"{path}: is missing. Fix: copy the bundle again")
    if sha256(path) != entry["sha256"]:
        raise BundleError(
            f"{path}: is damaged (its checksum differs from the plan's). Fix: copy the bundle again"
        )
    return path


def refuse_link(path: Path) -> None:
    """Raise BundleError where a file that is written here is a link, perhaps to somebody's file."""
    if path.is_symlink():
        raise BundleError(f"{path}: is a link, expected a file of the bundle. Fix: remove it")


def sha256(path: Path) -> str:
    """Return the checksum of a file, or of a folder's files with their names (an .mlpackage).

    What Finder leaves in folders that it has looked at (.DS_Store, ._NAME) does not count. A file
    that is larger than MOST_FILE_BYTES, perhaps a sparse one, is not read and has no checksum.
    """
    if path.is_file():
        if path.stat().st_size > MOST_FILE_BYTES:
            return "too large"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while True:
                block = file.read(_BLOCK)
                if not block:
                    return digest.hexdigest()
                digest.update(block)
    parts = sorted(part for part in path.rglob("*") if part.is_file() and not _is_finders(part))
    lines = [f"{part.relative_to(path).as_posix()} {sha256(part)}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_finders(path: Path) -> bool:
    """Return whether a file is one that macOS leaves in folders, and none of a package's own."""
    return path.name == ".DS_Store" or path.name.startswith("._")
