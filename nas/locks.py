"""Locks of folders, so that two processes never write into one at once.

Trainings, searches, exports, profiles and bundles hold one while they write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nas.errors import NasError

LOCK_FILE = ".lock"
"""Name of the file that is locked while a process writes into its folder."""


@contextmanager
def sole_writer(
    folder: Path, work: str, reentrant: bool = False, once: bool = False
) -> Iterator[None]:
    """Context manager: inside, no other process does this work in the folder, which is made.

    A folder that did not exist, and that an error leaves empty, is removed again.

    Args:
        folder: where the file `.lock` is held.
        work: what another process would be doing, for the message: "training in this folder".
        reentrant: whether this process may lock the folder again inside.
        once: whether the folder is finished afterwards, so that the file is removed.

    Raises:
        NasError: when another process has the lock, or the folder cannot be made.
    """
    from filelock import FileLock, Timeout

    made = [path for path in (folder, *folder.parents) if not path.exists()]
    # Opening a link would empty the file that it leads to.
    if (folder / LOCK_FILE).is_symlink():
        raise NasError(f"{folder / LOCK_FILE}: is a link, expected a file. Fix: remove it")
    lock = FileLock(folder / LOCK_FILE, is_singleton=reentrant)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The operating system releases the lock with its process: a kill leaves none behind.
        lock.acquire(timeout=0)
    except Timeout:
        raise NasError(
            f"{folder}: another nas process is {work}. Fix: wait for it to end, or give another"
            " folder with --out"
        ) from None
    except OSError as error:
        raise NasError(
            f"{folder}: cannot be written ({error.strerror or error}). Fix: give another --out"
        ) from error
    try:
        yield
    finally:
        # While the lock is held, so that no other process begins in a folder that goes.
        if once:
            with suppress(OSError):
                (folder / LOCK_FILE).unlink(missing_ok=True)
        _remove_empty(made)
        lock.release()


def _remove_empty(made: Sequence[Path]) -> None:
    """Remove folders that hold nothing but a lock, the deepest first; leave all others."""
    for folder in made:
        try:
            if {path.name for path in folder.iterdir()} <= {LOCK_FILE}:
                (folder / LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
        except OSError:
            return
