"""Keep the journal of a running measurement, for `run` and for checks of tables.

It holds one JSON line per result, which is on disk before the next measurement starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.devices.info import DeviceInfo, os_major
from nas.errors import InputError
from nas.journals import append_text, read_entries
from nas.latency.network_times import network_from
from nas.latency.rows import row_from
from nas.locks import sole_writer
from nas.signals import keeping

FORMAT = "nas-journal-1"
MEASURING = "measuring into this table"
"""What a process does that holds the lock of a table's folder, for messages."""
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
    "affinity",
)
"""Fields of `device.yaml` that must be equal for all rows of one table, beside the system's major
version."""


_WORDS = {"affinity": "affinity (cores)", "soc": "soc (chip)", "os": "os (version)"}


class Journal:
    """A journal file and its entries, including those of an earlier run that was interrupted.

    An incomplete last line, left by a kill or a full disk, is dropped. `journal` opens a journal
    and holds the lock.

    Raises:
        InputError: when the file is not a journal, or was begun with other settings than `device`.
    """

    def __init__(self, path: Path, device: DeviceInfo) -> None:
        self.path = path
        self.entries: list[Entry] = []
        lines = read_entries(path)
        # Without a complete line there may still be an incomplete header: the file starts anew.
        if not lines:
            path.unlink(missing_ok=True)
            self._write({"format": FORMAT, "device": settings(device)})
            return
        header = lines[0]
        if header.get("format") != FORMAT:
            raise InputError(f"{path}:1: is not a journal of nas. Fix: remove it and start again")
        if not isinstance(header.get("device", {}), dict):
            raise InputError(f"{path}:1: device: is not a mapping. Fix: remove the file")
        check_settings(path, header.get("device", {}), device)
        for number, entry in enumerate(lines[1:], start=2):
            _check(path, number, entry)
        self.entries = lines[1:]

    def append(self, entry: Entry) -> None:
        """Add an entry and wait until it is on disk."""
        # The disk comes first: after a failed write, an entry in memory would count as stored.
        self._write(entry)
        self.entries.append(entry)

    def remove(self) -> None:
        """Delete the file, once the table holds everything."""
        self.path.unlink(missing_ok=True)

    def _write(self, entry: Entry) -> None:
        append_text(self.path, json.dumps(entry) + "\n", kept="measured")


def _check(path: Path, number: int, entry: Entry) -> None:
    """Raise InputError for an entry that no profile or check writes."""
    try:
        if "row" in entry:
            row_from(entry["row"])
        elif "network" in entry:
            network_from(entry["network"])
        elif "failed" in entry:
            texts = [*entry["failed"], entry["message"]]
            if len(texts) != 4 or not all(isinstance(text, str) for text in texts):
                raise ValueError("failed: is not an operation with a message")
        else:
            raise ValueError("is not an entry of a profile or a check")
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}:{number}: {error}. Fix: remove this line; the same command measures it again"
        ) from None


@contextmanager
def journal(folder: Path, name: str, device: DeviceInfo) -> Iterator[Journal]:
    """Open the journal `name` in a table's folder, locked against a second writer of that table.

    Raises:
        NasError: when another process writes the table.
        InputError: as `Journal`.
    """
    with (
        sole_writer(folder, MEASURING),
        keeping(f"what was measured is kept in {folder}"),
    ):
        yield Journal(folder / name, device)


def settings(device: DeviceInfo) -> dict[str, Any]:
    """Return the settings that must be equal for all rows of one table, by name."""
    return {name: getattr(device, name) for name in _SAME} | {"os": os_major(device.os)}


def check_settings(path: Path, stored: Mapping[str, Any], device: DeviceInfo) -> None:
    """Raise InputError naming the first setting that differs from `device`'s."""
    for name, value in settings(device).items():
        # Journals of older versions lack some of them.
        before = stored.get(name, value)
        if name == "os":
            before = os_major(str(before))
        if before != value:
            mask = str(before).partition("mask ")[2] if name == "affinity" else ""
            same = f"nas profile --affinity {mask} for the same cores, " if mask else ""
            raise InputError(
                f"{path}: was measured with another {_WORDS.get(name, name)} (got {value!r},"
                f" expected {before!r}). Fix: {same}nas profile --out with another folder, or remove"
                f" {path.parent}"
            )
