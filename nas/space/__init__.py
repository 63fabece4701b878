"""Spaces and architectures: what a search may choose from, and what it chose. Imports no torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from nas import resources
from nas.blocks import Operation
from nas.errors import InputError, check_name, nearest
from nas.plugins import SPACES, Plugin, plugins
from nas.space.architecture import Architecture, Stage, read_architecture
from nas.space.candidates import StageSpace
from nas.space.space import Space


def load_space(name: str | Path) -> Space:
    """Return a space by its shipped name, by that of a file in ./search_spaces, by that of one of
    another package (see `nas.plugins`), or by the path of a YAML file.

    Raises:
        InputError: naming file, line, key and reason, or the nearest name that exists.
    """
    from nas.space.schema import read_space

    check_name("space", name, "a name or a path")
    name = str(name)
    if name in _files() or Path(name).suffix or len(Path(name).parts) > 1:
        return read_space(resources.find("space", resources.SPACES, "*.yaml", name))
    brought = _brought()
    if name in brought:
        return read_space(brought[name].file(".yaml"))
    return read_space(resources.find("space", resources.SPACES, "*.yaml", name, brought))


def space_names() -> list[str]:
    """Return the names that `load_space` knows."""
    return sorted({**_brought(), **_files()})


def published_members() -> dict[str, Architecture]:
    """Return the published architectures of all known spaces, by name."""
    return {
        name: arch for space in space_names() for name, arch in load_space(space).published.items()
    }


def published_member(name: str) -> Architecture | None:
    """Return the published architecture of this name, written as in its paper too:
    EfficientFormer-L1."""
    return _members_seen_from(Path.cwd()).get(name.lower().replace("-", "_"))


@cache
def _members_seen_from(directory: Path) -> dict[str, Architecture]:
    """Return `published_members`, read once for a working directory, which may have spaces of its
    own."""
    return published_members()


def load_architecture(name: str | Path) -> Architecture:
    """Return the architecture in a YAML file or in a run folder, or the published member of this
    name.

    Raises:
        InputError: when there is none, or the file is wrong.
    """
    check_name("architecture", name, "a path or a published member's name")
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        if not path.exists():
            raise InputError(
                f"{name}: there is no such run folder or architecture file; `nas search` makes one"
            )
        return read_architecture(path / "architecture.yaml" if path.is_dir() else path)
    members = published_members()
    if str(name) in members:
        return members[str(name)]
    if path.exists():
        return read_architecture(path / "architecture.yaml" if path.is_dir() else path)
    raise InputError(
        f"unknown architecture '{name}'{nearest(str(name), members)}; or the path of a YAML file"
        " or run"
    )


find_architecture = load_architecture


def _files() -> dict[str, Path]:
    """Return the spaces of the working directory, and those that ship."""
    return resources.names(resources.SPACES, "*.yaml")


def _brought() -> dict[str, Plugin]:
    """Return the spaces of other packages; one of the working directory takes the place of one that
    is called the same."""
    return plugins(
        SPACES, {path.stem for path in resources.shipped(resources.SPACES).glob("*.yaml")}
    )


__all__ = [
    "Architecture",
    "Operation",
    "Space",
    "Stage",
    "StageSpace",
    "find_architecture",
    "load_architecture",
    "load_space",
    "published_member",
    "published_members",
    "space_names",
]
