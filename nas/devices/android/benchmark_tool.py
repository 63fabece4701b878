"""LiteRT's `benchmark_model` for Android: a file of the user's, or the one that LiteRT releases,
kept in the cache."""

from __future__ import annotations

import os
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from nas.errors import InputError, NasError
from nas.files import file_sha256, replacing, write_text

VERSION = "2.3.0"
URL = f"https://storage.googleapis.com/litert/binaries/{VERSION}/android_arm64/benchmark_model"
VARIABLE = "NAS_BENCHMARK_MODEL"
TIMEOUT_S = 30.0

_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_AARCH64 = (183).to_bytes(2, "little")


@dataclass(frozen=True)
class Tool:
    """A `benchmark_model` for arm64.

    Attributes:
        sha256: of its content.
        version: of the LiteRT release it is from; where a user gave the file, its checksum.
    """

    path: Path
    sha256: str
    version: str


def benchmark_tool(path: str | Path | None = None) -> Tool:
    """Return the tool at `path`, or at $NAS_BENCHMARK_MODEL, or LiteRT's release, which is fetched
    once.

    Raises:
        InputError: when the file cannot be read or is no program for arm64.
        NasError: when there is none and it cannot be fetched.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        digest = _digest(Path(given))
        return Tool(Path(given), digest, f"benchmark_model {digest[:12]}")
    cached = cache_path()
    checksum = cached.with_name(cached.name + ".sha256")
    if not cached.is_file() or (
        checksum.is_file() and checksum.read_text().strip() != file_sha256(cached)
    ):
        _fetch(cached)
        write_text(checksum, file_sha256(cached) + "\n")
    return Tool(cached, _digest(cached), VERSION)


def cache_path() -> Path:
    """Return where LiteRT's release is kept, and where a user can put it by hand: under
    ~/.cache/nas/tools."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "nas" / "tools" / f"litert-{VERSION}-android_arm64" / "benchmark_model"


def _fetch(path: Path) -> None:
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NasError(
            f"benchmark_model could not be fetched ({reason}); download {URL} elsewhere and put it"
            f" at {path}, or say where it is: --benchmark-model FILE or {VARIABLE}=FILE"
        ) from None
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _digest(path: Path) -> str:
    """Return the checksum of a program for arm64."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
        digest = file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; it should be {URL}") from None
    if head[:6] != _ELF_64_LITTLE or head[18:20] != _AARCH64:
        raise InputError(f"{path}: this is no program for arm64; it should be {URL}")
    return digest
