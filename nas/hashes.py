"""SHA-256 of files, folders, texts and plain data, by which runs and caches compare contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 22
"""Bytes read at once: a file of weights may be larger than free memory."""


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def tree_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their relative names."""
    if path.is_file():
        return file_sha256(path)
    # Sorted: the order of a folder's files depends on the file system.
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return lines_sha256(
        f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n" for file in files
    )


def lines_sha256(lines: Iterable[str]) -> str:
    """Return the SHA-256 of the concatenation of texts."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def data_sha256(data: Any) -> str:
    """Return the SHA-256 of plain data; the order of a mapping's keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))
