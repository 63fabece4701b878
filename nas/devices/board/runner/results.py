"""The results of a bundle, one line each."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import BundleError, NotWritten
from .plan import check_count, check_text, read_file, refuse_link, wrong_in_file

try:
    import fcntl
except ImportError:  # Windows has no fcntl: two runs of one bundle are not detected there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    Entry = dict[str, Any]

RESULTS_FORMAT = "nas-bundle-results-1"
RESULTS_FILE = "results.jsonl"
SETTINGS = (
    "soc",
    "os",
    "runtime",
    "runtime_version",
    "compute_unit",
    "precision",
    "threads",
    "affinity",
)
"""Fields of the device that must be equal for all results of one file; of `os` the major version."""


class Results:
    """The results of a bundle, one line each, on disk before the next measurement starts.

    Raises:
        BundleError: for results of another bundle or machine, and while another process measures.
        NotWritten: when the folder cannot be written to.
    """

    def __init__(self, folder: Path, plan: Entry, device: Entry) -> None:
        self.path = folder / RESULTS_FILE
        self._lock = self._locked()
        self.entries = read_results(folder, plan)
        if not self.entries:
            self._write({"format": RESULTS_FORMAT, "bundle": plan["id"], "device": device}, "wb")
            return
        for name in SETTINGS:
            first = self.entries[0]["device"].get(name)
            now = device.get(name)
            if name == "os":
                first = os_major(str(first))
                now = os_major(str(now))
            if first != now:
                raise BundleError(
                    f"{self.path}: was begun with another {name} (got {now!r},"
                    f" expected {first!r}). Fix: resume where it was begun, or remove it to start"
                    " again"
                )
        # An incomplete last line is cut off, or the next line would be appended to it.
        os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

    def _locked(self) -> IO[bytes]:
        """Return the locked file; the lock lasts until it is closed or the process ends."""
        lock = self.path.with_name(".lock")
        refuse_link(lock)
        try:
            file = lock.open("ab")
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(
                f"{self.path}: another process measures this bundle. Fix: wait for it to end"
            ) from None
        except OSError as error:
            raise NotWritten(f"{self.path}: could not be written ({error.strerror})") from None
        return file

    def close(self) -> None:
        """Let another process measure; otherwise the lock lasts as long as this object."""
        self._lock.close()

    def append(self, entry: Entry) -> None:
        """Add a line and wait until it is on disk."""
        self._write(entry, "ab")

    def _write(self, entry: Entry, mode: str) -> None:
        try:
            with self.path.open(mode) as file:
                file.write((json.dumps(entry) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise NotWritten(
                f"{self.path}: could not be written ({error.strerror}). Earlier results are kept."
                " Fix: make room, then run the same command again"
            ) from None
        self.entries.append(entry)


def read_results(folder: Path, plan: Entry) -> list[Entry]:
    """Return the lines of the results, the header first. Raises BundleError."""
    path = folder / RESULTS_FILE
    refuse_link(path)
    text = read_file(path) if path.exists() else b""
    # Text after the last newline is dropped: that line was being written when the power failed.
    entries: list[Entry] = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line.decode("utf-8-sig"))
            if not isinstance(entry, dict) or not _is_entry(entry, first=not entries):
                raise ValueError
        except (ValueError, RecursionError):
            raise BundleError(
                f"{path}:{number}: this line is not a result. Fix: remove the line and run again"
            ) from None
        entries.append(entry)
    header = entries[0] if entries else {}
    if entries and (header.get("format") != RESULTS_FORMAT or "device" not in header):
        raise BundleError(f"{path}:1: is not a file of results. Fix: remove it")
    if entries and entries[0].get("bundle") != plan["id"]:
        raise BundleError(
            f"{path}: holds the results of another bundle. Fix: replace it by this bundle's"
            " results, or remove it"
        )
    return entries


def _is_entry(entry: Entry, first: bool) -> bool:
    """Return whether a line has the types of one: the header, a timing, or what befell a file."""
    if first:
        device = entry.get("device", {})
        # They come into a table, and from there onto a terminal.
        return isinstance(device, dict) and all(
            check_text(value) for value in device.values() if isinstance(value, str)
        )
    digests = entry.get("drifted", [])
    texts = [entry[key] for key in ("digest", "failed", "lost") if key in entry]
    if not isinstance(digests, list) or not all(isinstance(text, str) for text in texts + digests):
        return False
    if "digest" in entry and not entry.keys() & {"timing", "failed", "lost"}:
        return False
    if "reference" in entry and not (
        not wrong_in_file(entry["reference"]) and _is_time(entry.get("first_ms"), least=LEAST_MS)
    ):
        return False
    return "timing" not in entry or is_timing(entry["timing"])


MOST_MS = 1e7
"""Maximum latency in ms, as of tables."""
LEAST_MS = 1e-9
"""Minimum latency of the reference in ms: drift is a ratio to it."""


def _is_time(value: object, least: float = 0.0) -> bool:
    return type(value) in (int, float) and least <= value <= MOST_MS  # type: ignore[operator]


def is_timing(timing: object) -> bool:
    """Return whether a value is a timing: percentiles that ascend, runs, and notes in pairs."""
    if not isinstance(timing, dict) or not check_count(timing.get("runs")):
        return False
    times: list[Any] = [timing.get(key) for key in ("p10_ms", "median_ms", "p90_ms")]
    if not all(map(_is_time, times)):
        return False
    notes = timing.get("notes", [])
    pairs = isinstance(notes, (list, tuple)) and all(
        isinstance(note, (list, tuple)) and len(note) == 2 and all(isinstance(x, str) for x in note)
        for note in notes
    )
    return pairs and times == sorted(times)


def os_major(text: str) -> str:
    """Return the part of an operating system that all results share; of Linux that is its name.

    A kernel is updated without a change of what the processor computes.
    """
    if text.startswith("Linux"):
        return "Linux"
    matched = re.match(r"([A-Za-z ]*[A-Za-z])[ -](\d+)", text)
    return f"{matched.group(1)} {matched.group(2)}" if matched else text
