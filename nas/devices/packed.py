"""Pack the large parts of a bundle's files that are folders (.mlpackage): each becomes NAME.gz.

The folder stays one, so that it is copied, looked at and checked as any other. `nas.latency.bundle`
packs and unpacks, and `nas.devices.farms` unpacks what it sends.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import InputError
from nas.files import replacing

SUFFIX = ".gz"
LEAST_BYTES = 16_384
"""Size below which a part is left as it is."""
MOST_BYTES = 4 << 30
"""Maximum size of an unpacked part: a bundle may come from a stranger."""


def packed(path: Path) -> Path:
    """Pack the large parts of a folder; a file, or a part that is packed already, stays as it is.

    Equal content gives equal archives, byte by byte.
    """
    for part in _parts(path):
        if part.suffix == SUFFIX or part.stat().st_size < LEAST_BYTES:
            continue
        with replacing(part.with_name(part.name + SUFFIX)) as temporary:
            temporary.write_bytes(gzip.compress(part.read_bytes(), compresslevel=6, mtime=0))
        part.unlink()
    return path


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield a copy of a folder with its packed parts unpacked; the path itself where none is.

    Raises:
        InputError: for a part that cannot be unpacked.
    """
    parts = _parts(path)
    if not any(part.suffix == SUFFIX for part in parts):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nas-bundle-") as folder:
        copy = Path(folder) / path.name
        for part in parts:
            target = copy / part.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if part.suffix == SUFFIX:
                _unpack(part, target.with_suffix(""))
            else:
                shutil.copyfile(part, target)
        yield copy


def _parts(path: Path) -> list[Path]:
    """Return the files in a folder, without links; empty for a file."""
    return sorted(part for part in path.rglob("*") if part.is_file() and not part.is_symlink())


def _unpack(part: Path, target: Path) -> None:
    """Write the unpacked content of a part. Raises InputError where it is damaged or too large."""
    left = MOST_BYTES
    try:
        with gzip.open(part) as source, target.open("wb") as file:
            while block := source.read(1 << 20):
                left -= len(block)
                if left < 0:
                    raise InputError(
                        f"{part}: is larger than {MOST_BYTES >> 30} GB. Fix: copy it again"
                    )
                file.write(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{part}: is damaged ({error}). Fix: copy it again") from None
