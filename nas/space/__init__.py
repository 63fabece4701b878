"""Spaces and architectures: what a search may choose from, and what it chose. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from nas import resources
from nas.plugins import SPACES, Plugin, plugins
from nas.space.architecture import Architecture, Operation, Stage, load_architecture
from nas.space.space import Space, StageSpace


def load_space(name: str) -> Space:
    """A space by its shipped name, by that of a file in ./search_spaces, by that of one of another package (see
    `nas.plugins`), or by the path of a YAML file.

    Raises:
        InputError: naming file, line, key and reason, or the nearest name that exists.
    """
    from nas.space.schema import read_space

    name = str(name)
    if name in _files() or Path(name).suffix or len(Path(name).parts) > 1:
        return read_space(resources.find("space", resources.SPACES, "*.yaml", name))
    brought = _brought()
    if name in brought:
        return read_space(brought[name].file(".yaml"))
    return read_space(resources.find("space", resources.SPACES, "*.yaml", name, brought))


def space_names() -> list[str]:
    """The names that `load_space` knows."""
    return sorted({**_brought(), **_files()})


def published_member(name: str) -> Architecture | None:
    """The published architecture of this name in any known space, or None."""
    for space in map(load_space, space_names()):
        if name in space.published:
            return space.published[name]
    return None


def _files() -> dict[str, Path]:
    """The spaces of the working directory, and those that ship."""
    return resources.names(resources.SPACES, "*.yaml")


def _brought() -> dict[str, Plugin]:
    """The spaces of other packages; one of the working directory takes the place of one that is called the same."""
    return plugins(SPACES, {path.stem for path in resources.shipped(resources.SPACES).glob("*.yaml")})


__all__ = ["Architecture", "Operation", "Space", "Stage", "StageSpace", "load_architecture", "load_space",
           "published_member", "space_names"]  # fmt: skip
