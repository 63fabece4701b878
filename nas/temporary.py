"""Temporary folders that do not stay after a kill.

`nas.files` and `nas.runs.exports` write files with it, searches and exports have their scratch
folders by it. Each folder is locked by its process. The system drops the lock when the process
ends, however it ends. So the next process recognises what a killed one left, and removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked and nothing is swept
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
"""Names of parts; the eight characters are those of `tempfile`.

Older versions had files of these names, without a lock.
"""
_swept: set[Path] = set()
"""Folders in which this process has looked for what others left."""


@contextmanager
def part_beside(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a new hidden folder beside `path`, and remove the folder.

    Whatever is written there is on the file system of `path`, so that it can be renamed to it. A
    library that writes under a name of its own first (as safetensors does) does it in that folder.
    The first call of a process in a folder removes what killed processes left there.
    """
    sweep_once(path.parent)
    # Short enough to be a name where that of the path is hardly one.
    name = os.fsdecode(os.fsencode(path.name)[:100])
    with _locked(path.parent, f".{name}.", ".part") as folder:
        yield folder / path.name


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield a new folder among the system's temporary ones, and remove it with its content.

    Folders of the same prefix that killed processes of this user left are removed first.
    """
    home = Path(tempfile.gettempdir())
    _sweep(home, re.compile(re.escape(prefix) + "[a-z0-9_]{8}"))
    with _locked(home, prefix, "") as folder:
        yield folder


def sweep_once(folder: Path) -> None:
    """Remove the parts of killed processes from a folder, unless this process has done so."""
    absolute = Path(os.path.abspath(folder))
    if absolute not in _swept:
        _swept.add(absolute)
        _sweep(folder, _PART)


@contextmanager
def _locked(home: Path, prefix: str, suffix: str) -> Iterator[Path]:
    """Yield a new folder that is locked until the end of the block, and then removed."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=home, prefix=prefix, suffix=suffix))
        with suppress(FileNotFoundError):
            lock = _open(folder)
            if _lock(lock) is not False and folder.exists():
                break
            _close(lock)
        # Another process took it for left behind in the moment before it was locked.
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(lock)


def _sweep(home: Path, name: re.Pattern[str]) -> None:
    """Remove the folders and files of these names whose processes have ended."""
    if fcntl is None:
        return
    with suppress(OSError):
        left = [Path(entry.path) for entry in os.scandir(home) if name.fullmatch(entry.name)]
        for path in left:
            with suppress(OSError):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    """Remove a folder or a file of this user unless a process has it locked."""
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid != os.getuid() or not _lock(lock):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(lock)


def _open(folder: Path) -> int | None:
    """Return an open folder to lock; None where folders cannot be locked."""
    return None if fcntl is None else os.open(folder, os.O_RDONLY)


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _lock(file: int | None) -> bool | None:
    """Lock an open file or folder.

    Returns:
        False where another process has locked it, None where the file system has no locks.
    """
    if file is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
