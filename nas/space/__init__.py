"""Spaces and architectures: what a search may choose from, and what it chose. Imports no torch."""

from __future__ import annotations

from nas import resources
from nas.space.architecture import Architecture, Operation, Stage, load_architecture
from nas.space.space import Space, StageSpace


def load_space(name: str) -> Space:
    """A space by its shipped name, by the name of a file in ./search_spaces, or by the path of a YAML file.

    Raises:
        InputError: naming file, line, key and reason, or the nearest name that exists.
    """
    from nas.space.schema import read_space

    return read_space(resources.find("space", resources.SPACES, "*.yaml", str(name)))


def space_names() -> list[str]:
    """The names that `load_space` knows."""
    return list(resources.names(resources.SPACES, "*.yaml"))


def published_member(name: str) -> Architecture | None:
    """The published architecture of this name in any known space, or None."""
    for space in map(load_space, space_names()):
        if name in space.published:
            return space.published[name]
    return None


__all__ = ["Architecture", "Operation", "Space", "Stage", "StageSpace", "load_architecture", "load_space",
           "published_member", "space_names"]  # fmt: skip
