"""Lookup of named files: a user's own in the working directory first, then the shipped ones.

Spaces, latency tables and recorded experiments are found here. They are at the top of the
repository, and in `nas/_shipped/` in the wheel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nas.errors import InputError, nearest

SPACES = "search_spaces"
TABLES = "latency_tables"
EXPERIMENTS = "experiments"

_PACKAGE = Path(__file__).resolve().parent


def cache_folder(name: str) -> Path:
    """Return the folder of kept files of a kind: nas/NAME in $XDG_CACHE_HOME (default: ~/.cache).

    Raises:
        InputError: the user has no home folder, as in some containers.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        raise InputError(
            "HOME: is not set, and this user has no home folder. Fix: export XDG_CACHE_HOME=/tmp/cache"
        ) from None
    return home / "nas" / name


def expanded(name: str | Path) -> Path:
    """Return a path with ~ as the home folder; unchanged where no such user has one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def roots(folder: str) -> list[Path]:
    """Return the existing folders of this name, the one with priority first."""
    shipped = _PACKAGE / "_shipped" / folder
    # The folders are beside the package in a checkout, and inside it in a wheel. In the root of a
    # checkout both candidates are the same folder, which `dict.fromkeys` keeps once.
    candidates = [Path.cwd() / folder, shipped if shipped.is_dir() else _PACKAGE.parent / folder]
    return [root for root in dict.fromkeys(candidates) if root.is_dir()]


def shipped(folder: str) -> Path:
    """Return the folder of this name that ships with the package."""
    return roots(folder)[-1]


def names(folder: str, pattern: str) -> dict[str, Path]:
    """Return the paths that match `pattern` in the folders of this name, by name.

    The name is the file's stem, or the parent folder's name where `pattern` has a slash.
    """
    paths: dict[str, Path] = {}
    for name, path in _entries(folder, pattern):
        # The first root wins: a user's own file replaces a shipped one of the same name.
        paths.setdefault(name, path)
    return dict(sorted(paths.items()))


def _entries(folder: str, pattern: str) -> Iterator[tuple[str, Path]]:
    for root in roots(folder):
        for path in root.glob(pattern):
            yield (path.parent.name if "/" in pattern else path.stem), path


def find(what: str, folder: str, pattern: str, name: str, others: Iterable[str] = ()) -> Path:
    """Return the path of the `what` called `name`, or `name` itself when it is a path.

    Args:
        what: the kind of thing, for messages.
        others: names that are known elsewhere; only the message uses them.

    Raises:
        InputError: when neither exists, with the most similar name that does.
    """
    path = Path(name)
    # A suffix or a slash marks a path. A table, which is a folder, may also be named by a folder of
    # the working directory without a slash.
    if path.suffix or len(path.parts) > 1 or ("/" in pattern and path.is_dir()):
        if not path.exists():
            raise InputError(f"{name}: there is no such {what} file")
        return path
    known = names(folder, pattern)
    if name not in known:
        raise InputError(f"unknown {what} '{name}'{nearest(name, [*known, *others])}")
    return known[name]
