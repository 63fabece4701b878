"""The journal of a running measurement: one JSON line a result, on disk before the next one starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas.devices.info import DeviceInfo
from nas.errors import InputError, NasError
from nas.journals import append_text, read_entries

FORMAT = "nas-journal-1"
Entry = dict[str, Any]

_SAME = (
    "name",
    "kind",
    "soc",
    "runtime",
    "runtime_version",
    "compute_unit",
    "precision",
    "threads",
)
"""The fields of `device.yaml` that two rows must agree on to stand in one table."""


class Journal:
    """The entries of a journal file, those of an earlier run that was cut short included.

    A last line that a kill or a full disk left half written is dropped. Opened through `journal`,
    which holds the lock.

    Raises:
        InputError: when the file is no journal, or was begun with other settings than `device`.
    """

    def __init__(self, path: Path, device: DeviceInfo) -> None:
        self.path = path
        self.entries: list[Entry] = []
        lines = read_entries(path)
        if not lines:
            path.unlink(missing_ok=True)
            self._write({"format": FORMAT, "device": settings(device)})
            return
        header = lines[0]
        if header.get("format") != FORMAT:
            raise InputError(f"{path}:1: this is no journal of nas; remove it and start again")
        check_settings(path, header.get("device", {}), device)
        self.entries = lines[1:]

    def append(self, entry: Entry) -> None:
        """Add an entry and waits until it is on disk."""
        self._write(entry)
        self.entries.append(entry)

    def remove(self) -> None:
        """Once everything stands in the table."""
        self.path.unlink(missing_ok=True)

    def _write(self, entry: Entry) -> None:
        append_text(self.path, json.dumps(entry) + "\n", kept="measured")


@contextmanager
def journal(folder: Path, name: str, device: DeviceInfo) -> Iterator[Journal]:
    """The journal `name` in a table's folder, locked against a second writer of that table.

    Raises:
        NasError: when another process writes the table.
        InputError: as `Journal`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise NasError(
            f"{folder}: another nas process is measuring into this table; wait for it to end, "
            "or give another folder with --out"
        ) from None
    try:
        yield Journal(folder / name, device)
    finally:
        lock.release()


def settings(device: DeviceInfo) -> dict[str, Any]:
    """Return what rows must agree on to stand in one table."""
    return {name: getattr(device, name) for name in _SAME}


def check_settings(path: Path, found: Mapping[str, Any], device: DeviceInfo) -> None:
    """Raise InputError naming the first setting that differs from `device`'s."""
    for name, value in settings(device).items():
        if found.get(name) != value:
            raise InputError(
                f"{path}: was measured with {name} {found.get(name)!r}, this run has {value!r}; "
                f"give another folder with --out, or remove {path.parent}"
            )
