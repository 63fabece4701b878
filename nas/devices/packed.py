"""Pack files of a bundle that are folders (.mlpackage) into one compressed archive each.

`nas.latency.bundle` packs and unpacks them, and `nas.devices.farms` unpacks what it sends.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import InputError
from nas.files import remove, replacing

SUFFIX = ".zip"
_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of every entry: an archive of equal content is equal, byte by byte."""


def packed(path: Path) -> Path:
    """Return an archive that replaces a folder, or the path itself where it is a file.

    A folder that was packed before gives the archive that it became: chains of one graph share
    their file.
    """
    archive = path.with_name(path.name + SUFFIX)
    if not path.is_dir():
        return archive if archive.exists() and not path.exists() else path
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for part in sorted(part for part in path.rglob("*") if part.is_file()):
            entry = zipfile.ZipInfo(part.relative_to(path.parent).as_posix(), _DATE)
            entry.external_attr = 0o644 << 16
            file.writestr(entry, part.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=6)
    remove(path)
    return archive


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield the folder of an archive for the time of the context, or the path itself of others.

    Raises:
        InputError: for an archive that has entries outside of its folder.
    """
    if path.suffix != SUFFIX:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nas-bundle-") as folder:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                inside = (Path(folder) / name).resolve()
                if not inside.is_relative_to(Path(folder).resolve() / path.stem):
                    raise InputError(f"{path}: is damaged (it holds {name!r}). Fix: copy it again")
            file.extractall(folder)
        yield Path(folder) / path.stem
