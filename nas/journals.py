"""Journals: files that grow by one line per result, synced to disk before the work continues.

Profiles, evaluations of members and scores of a supernet are stored this way. After a kill, the
same command resumes from them.
"""

from __future__ import annotations

import codecs
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError
from nas.files import read_bytes


def read_whole(path: Path) -> str:
    """Return the complete lines of a journal without byte-order mark; "" where there is no file.

    A kill or a full disk may have left the last line incomplete. It is cut off the file, so that
    the next entry starts on a new line.
    """
    if not path.exists():
        return ""
    content = read_bytes(path)
    # Without a complete line rfind returns -1, so `whole` is empty.
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        # Where nothing may be written, nothing is appended either.
        with suppress(OSError):
            os.truncate(path, len(whole))
    # A damaged byte makes its line invalid instead of raising here, so that its reader names the
    # line.
    return whole.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a journal of JSON lines.

    Raises:
        InputError: naming the file and the line that is not an entry.
    """
    return [
        _entry(path, number, line)
        for number, line in enumerate(read_whole(path).split("\n")[:-1], start=1)
    ]


def append_text(path: Path, text: str, kept: str) -> None:
    """Append complete lines to a journal, and wait until they are on disk.

    Args:
        kept: participle for the message of a full disk: "measured", "evaluated".

    Raises:
        NasError: when it cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise NasError(
            f"{path}: could not be written ({error.strerror}). What was {kept} before is kept."
            " Fix: make room and run the same command again"
        ) from error


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    """Return the entry on a line; raise InputError where it is not a JSON mapping."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise InputError(
            f"{path}:{number}: is not an entry (expected a JSON mapping). Fix: remove this line and"
            " run again"
        )
    return entry
