"""The journal of a running measurement: one JSON line a result, on disk before the next one starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas.errors import InputError, NasError
from nas.latency.device_info import DeviceInfo

FORMAT = "nas-journal-1"
Entry = dict[str, Any]

_SAME = ("name", "kind", "soc", "runtime", "runtime_version", "compute_unit", "precision", "threads")
"""The fields of `device.yaml` that two rows must agree on to stand in one table."""


class Journal:
    """The entries of a journal file, those of an earlier run that was cut short included.

    A last line that a kill or a full disk left half written is dropped. Opened through `journal`, which holds the lock.

    Raises:
        InputError: when the file is no journal, or was begun with other settings than `device`.
    """

    def __init__(self, path: Path, device: DeviceInfo) -> None:
        self.path = path
        self.entries: list[Entry] = []
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        lines = [self._parse(*line) for line in enumerate(whole.splitlines(), start=1)]
        if not lines:
            self._write(json.dumps({"format": FORMAT, "device": settings(device)}) + "\n", mode="wb")
            return
        header = lines[0]
        if header.get("format") != FORMAT:
            raise InputError(f"{path}:1: this is no journal of nas; remove it and start again")
        check_settings(path, header.get("device", {}), device)
        self.entries = lines[1:]
        if len(whole) < len(text):
            os.truncate(path, len(whole))

    def append(self, entry: Entry) -> None:
        """Adds an entry and waits until it is on disk."""
        self._write(json.dumps(entry) + "\n", mode="ab")
        self.entries.append(entry)

    def remove(self) -> None:
        """Once everything stands in the table."""
        self.path.unlink(missing_ok=True)

    def _write(self, text: str, mode: str) -> None:
        try:
            with self.path.open(mode) as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise NasError(f"{self.path}: could not be written ({error.strerror}); what was measured before is kept, "
                           "make room and run the same command again") from error  # fmt: skip

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("no mapping")
        except ValueError:
            raise InputError(f"{self.path}:{number}: this line is no entry; remove the line and run again") from None
        return entry


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
        raise NasError(f"{folder}: another nas process is measuring into this table; wait for it to end, "
                       "or give another folder with --out") from None  # fmt: skip
    try:
        yield Journal(folder / name, device)
    finally:
        lock.release()


def settings(device: DeviceInfo) -> dict[str, Any]:
    """What rows must agree on to stand in one table."""
    return {name: getattr(device, name) for name in _SAME}


def check_settings(path: Path, found: Mapping[str, Any], device: DeviceInfo) -> None:
    """Raises InputError naming the first setting that differs from `device`'s."""
    for name, value in settings(device).items():
        if found.get(name) != value:
            raise InputError(f"{path}: was measured with {name} {found.get(name)!r}, this run has {value!r}; "
                             f"give another folder with --out, or remove {path.parent}")  # fmt: skip
