"""Files of weights: finds them, tells them apart by their first bytes, reads and verifies them.

Imports no torch. `nas.weights.files` reads the tensors; `nas.runs` and `nas.export` read headers.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nas.errors import InputError
from nas.files import check_regular

Kind = Literal["safetensors", "torch"]

NAMES_IN_FOLDER = (
    "model.safetensors",
    "weights.safetensors",
    "pytorch_model.bin",
    "model.pth",
    "model.pt",
)
"""Names of the checkpoint in a folder, the first that exists before the others."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Suffixes of checkpoints, by which the only one in a folder is found."""

DIGEST = "nas-sha256"
"""Key in the header of a safetensors file: the SHA-256 of the file's content, `content_sha256`."""
UNKNOWN_DIGEST = "0" * 64
"""Its value until the file is complete; `record_digest` replaces it."""
_BLOCK = 1 << 22
"""Bytes per read, 4 MiB: a file of weights may be larger than free memory."""
_SAFETENSORS_PREFIX = 8
"""Bytes before the header of a safetensors file: its length, little endian."""
_MOST_RATIO = 20
"""Maximum size of a zip archive's content over its own size."""
_SNIFFED = 512
"""Bytes of a file that are looked at."""
_LFS = b"version https://git-lfs.github.com/spec/"
_OTHER_FORMATS: Sequence[tuple[bytes, str]] = (
    (b"\x1f\x8b", "a gzip archive. Fix: unpack it with gunzip or tar -xzf"),
    (b"BZh", "a bzip2 archive. Fix: unpack it with bunzip2 or tar -xjf"),
    (b"\xfd7zXZ\x00", "an xz archive. Fix: unpack it with unxz or tar -xJf"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive. Fix: unpack it"),
    (b"Rar!", "a RAR archive. Fix: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive. Fix: unpack it with unzstd"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it. Fix: give PyTorch weights"),
    (b"\x93NUMPY", "a NumPy array. Fix: give PyTorch weights"),
    (b"GGUF", "a GGUF file. Fix: give PyTorch weights"),
    (b"%PDF", "a PDF document. Fix: download the checkpoint itself"),
    (b"\x89PNG", "a PNG image. Fix: download the checkpoint itself"),
    (b"\xff\xd8\xff", "a JPEG image. Fix: download the checkpoint itself"),
)
"""First bytes of files that are given in place of a checkpoint, and what they are."""


def find_file(path: str | Path) -> Path:
    """Return the checkpoint file that a path names: the file itself, or the one in a folder.

    Raises:
        InputError: when there is no such file, or the folder has no checkpoint or several.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: there is no such checkpoint file")
    named = next((path / name for name in NAMES_IN_FOLDER if (path / name).is_file()), None)
    if named is not None:
        return named
    if any(path.glob("*.index.json")):
        raise InputError(
            f"{path}: the checkpoint is split into several files. Fix: save it as one"
            " model.safetensors"
        )
    candidates = sorted(
        each for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file()
    )
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise InputError(
            f"{path}: there is no checkpoint in this folder (expected model.safetensors). Fix: give"
            " the file"
        )
    names = ", ".join(each.name for each in candidates[:4])
    raise InputError(
        f"{path}: {len(candidates)} checkpoints in this folder ({names}). Fix: give one of them"
    )


def kind_of(path: Path) -> Kind:
    """Return the format of a checkpoint file by its first bytes, whatever its name is.

    Raises:
        InputError: saying what the file is instead: a Git LFS pointer, a web page, an archive.
    """
    check_regular(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not start:
        raise InputError(f"{path}: the file is empty. Fix: download or save it again")
    text = _in_utf8(start).lstrip()
    if text.startswith(_LFS):
        raise InputError(
            f"{path}: a pointer of Git LFS, not the checkpoint itself (got {size} bytes). Fix: git"
            " lfs pull in its repository, or download the file"
        )
    if text[:1] == b"<":
        what = "an HTML page" if b"<html" in text.lower() or b"html>" in text.lower() else "XML"
        raise InputError(
            f"{path}: {what}, not a checkpoint. Fix: download the file itself, not the web page"
            " that links to it"
        )
    # The header of a safetensors file is JSON.
    if start[_SAFETENSORS_PREFIX : _SAFETENSORS_PREFIX + 1] == b"{":
        return "safetensors"
    if start.startswith(b"PK"):
        _check_zip(path)
        return "torch"
    # Pickles of protocol 2 and later, as torch wrote them before its zip format.
    if start.startswith(b"\x80"):
        return "torch"
    for first, what in _OTHER_FORMATS:
        if start.startswith(first):
            raise InputError(f"{path}: {what}")
    if start[257:262] == b"ustar":
        raise InputError(f"{path}: a tar archive. Fix: unpack it with tar -xf")
    if _is_text(text):
        words = " ".join(text[:60].decode(errors="replace").split())
        raise InputError(
            f"{path}: a text file that begins with '{words}', not a checkpoint. Fix: download the"
            " file itself"
        )
    raise InputError(
        f"{path}: not a checkpoint, or damaged: neither a safetensors file nor one of torch.save"
        f" (its first bytes are {start[:8].hex(' ')}). Fix: download or save it again"
    )


def read_header(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty for a file of another kind."""
    check_regular(path)
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_SAFETENSORS_PREFIX), "little")
            # In a file of another kind these bytes are an arbitrary number.
            if length > size:
                return {}
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        return {}
    return {str(key): str(value) for key, value in metadata.items()}


def record_digest(path: Path) -> None:
    """Replace `UNKNOWN_DIGEST` in the header of a new safetensors file by the digest of its content.

    The length of the header stays, so the tensors are neither moved nor written again.
    """
    digest = content_sha256(path)
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(_SAFETENSORS_PREFIX), "little")
        # safetensors writes the header without spaces. A quote inside a string has a backslash
        # before it, so these bytes are the key and its value, whatever the other texts are.
        at = file.read(length).index(f'"{DIGEST}":"{UNKNOWN_DIGEST}"'.encode())
        file.seek(_SAFETENSORS_PREFIX + at + len(f'"{DIGEST}":"'))
        file.write(digest.encode())


def check_digest(path: Path) -> None:
    """Raise InputError for a safetensors file whose content is not that of the digest in its header.

    A file without a digest, as other programs and older versions write it, passes.

    Args:
        path: a file whose header is well formed, as safetensors has found.
    """
    expected = read_header(path).get(DIGEST)
    if expected is None or expected == content_sha256(path):
        return
    raise InputError(
        f"{path}: its content is not the one that was written (the SHA-256 differs from the"
        f" '{DIGEST}' in its header). Fix: restore the file from a copy, or remove it and run the"
        " command that wrote it again"
    )


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of what a safetensors file says: its metadata, and every tensor by name.

    The order of the entries does not matter, so a program that writes the same content anew with
    its metadata keeps the digest valid.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_SAFETENSORS_PREFIX), "little")
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        metadata.pop(DIGEST, None)
        digest.update(json.dumps(metadata, sort_keys=True).encode())
        for name, tensor in sorted(header.items()):
            digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
            first, end = tensor["data_offsets"]
            file.seek(_SAFETENSORS_PREFIX + length + first)
            left = end - first
            while left and (block := file.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _check_zip(path: Path) -> None:
    """Raise InputError for a whole zip archive that `torch.save` did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is damaged
    # torch.save does not compress. A small archive of much would fill the memory.
    if unpacked > _MOST_RATIO * (path.stat().st_size + 1):
        raise InputError(
            f"{path}: a zip archive that unpacks to {unpacked / 1e6:,.0f} MB, {_MOST_RATIO} times its"
            " size or more, which torch.save does not write. Fix: give the checkpoint itself"
        )
    parts = [name.rpartition("/")[2] for name in names]
    if "data.pkl" not in parts:
        some = ", ".join(f"'{name}'" for name in names[:3]) or "nothing"
        raise InputError(
            f"{path}: a zip archive without a checkpoint of torch.save (it holds {some}). Fix:"
            " unpack it"
        )
    if "constants.pkl" in parts:
        raise InputError(
            f"{path}: a TorchScript program, not weights. Fix: save the state_dict() of the model"
        )


def _in_utf8(start: bytes) -> bytes:
    """Return the start of a text in UTF-8 without a byte-order mark; other bytes as they are."""
    # PowerShell saves what it downloads as UTF-16.
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return start.decode("utf-16", errors="ignore").encode("utf-8", errors="ignore")
    return start.removeprefix(b"\xef\xbb\xbf")


def _is_text(start: bytes) -> bool:
    """Return whether the first bytes of a file are printable text in UTF-8."""
    # The last character, of at most four bytes, may be cut.
    for cut in range(4):
        try:
            text = start[: len(start) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return bool(text) and all(each.isprintable() or each in "\r\n\t" for each in text)
    return False
