"""The plan of a bundle and its files: read, and checked against damage and strangers."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BundleError

if TYPE_CHECKING:
    Entry = dict[str, Any]

FORMAT = "nas-bundle-1"
PLAN_FILE = "plan.json"
PLAN_KEYS = {"id", "device", "space", "resolution", "copies", "check", "tools", "files"}
FILE_KEYS = {"digest", "role", "label", "file", "sha256"}


def read_plan(folder: Path) -> Entry:
    """Return the plan of a complete bundle. Raises BundleError."""
    path = folder / PLAN_FILE
    # utf-8-sig: editors on Windows put a byte-order mark before the text.
    try:
        plan: Entry = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}). Fix: give the folder of a bundle"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is damaged ({error}). Fix: copy the bundle again") from None
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise BundleError(
            f"{path}: is not a plan of the format {FORMAT}. Fix: write the bundle again"
        )
    if not _is_whole(plan):
        raise BundleError(f"{path}: is damaged (a key is missing). Fix: copy the bundle again")
    check_names(path, plan)
    # The plan is on disk before the files. Each entry gets its checksum when its file is written.
    if any(entry["sha256"] is None and "failed" not in entry for entry in plan["files"]):
        raise BundleError(
            f"{path}: the bundle is not complete. Fix: run the command that writes it again"
        )
    return plan


def check_names(path: Path, plan: Entry) -> None:
    """Raise BundleError for a name in the plan that leads out of the bundle, or out of its table.

    A bundle may come from a stranger: its plan must not make this machine read, run or write
    anything elsewhere.
    """
    name = plan["device"].get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise BundleError(f"{path}: device: {name!r} is not a name. Fix: write the bundle again")
    for entry in plan["files"]:
        file = entry["file"]
        if not isinstance(file, str) or not (file == "" or is_inside(file)):
            raise BundleError(
                f"{path}: {file!r} is not a file of this bundle. Fix: write the bundle again"
            )


def is_inside(file: str) -> bool:
    """Return whether a relative path names something below its folder, on every system."""
    parts = file.split("/")
    return not any(part in ("", ".", "..") or re.search(r"[\\:\0]", part) for part in parts)


def _is_whole(plan: Entry) -> bool:
    """Return whether the plan and all its entries of files have the keys that are read here."""
    files = plan.get("files")
    device = plan.get("device")
    if not isinstance(files, list) or not isinstance(device, dict) or not set(plan) >= PLAN_KEYS:
        return False
    return "kind" in device and all(
        isinstance(entry, dict) and set(entry) >= FILE_KEYS for entry in files
    )


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

    What Finder leaves in folders that it has looked at (.DS_Store, ._NAME) does not count.
    """
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    parts = sorted(part for part in path.rglob("*") if part.is_file() and not _is_finders(part))
    lines = [f"{part.relative_to(path).as_posix()} {sha256(part)}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_finders(path: Path) -> bool:
    """Return whether a file is one that macOS leaves in folders, and none of a package's own."""
    return path.name == ".DS_Store" or path.name.startswith("._")
