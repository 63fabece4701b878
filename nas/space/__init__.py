"""Spaces and architectures: what a search chooses from, and what it chose.

It loads them by name or path, for the API and for every command. It imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from nas import resources
from nas.blocks import Operation
from nas.errors import InputError, check_name, nearest
from nas.plugins import SPACES, Plugin, plugins
from nas.space.architecture import Architecture, Stage, read_architecture
from nas.space.candidates import StageSpace
from nas.space.space import Space


def load_space(name: str | Path) -> Space:
    """Return a space by its name or by the path of a YAML file.

    A name is that of a shipped space, of a file in ./search_spaces, or of a space of another
    package (see `nas.plugins`).

    Raises:
        InputError: naming file, line, key and reason, or the nearest name that exists.
    """
    from nas.space.schema import read_space

    check_name("space", name, "a name or a path")
    name = str(name)
    if name in _files() or Path(name).suffix or len(Path(name).parts) > 1:
        return read_space(resources.find("space", resources.SPACES, "*.yaml", name))
    plugin_spaces = _brought()
    if name in plugin_spaces:
        return read_space(plugin_spaces[name].file(".yaml"))
    # This raises for an unknown name; the message also lists plugins' names.
    return read_space(resources.find("space", resources.SPACES, "*.yaml", name, plugin_spaces))


def space_names() -> list[str]:
    """Return the names that `load_space` accepts, sorted."""
    return sorted({**_brought(), **_files()})


def published_members() -> dict[str, Architecture]:
    """Return the published architectures of all known spaces, by name."""
    spaces = map(load_space, space_names())
    return {
        name: arch
        for space in spaces
        for name, arch in (*space.published.items(), *space.dense.items())
    }


def published_member(name: str) -> Architecture | None:
    """Return the published architecture of this name, or None where there is none.

    A name may be written as in its paper, for example EfficientFormer-L1 or RepViT-M0.9.
    """
    return published_members().get(name.lower().replace("-", "_").replace(".", "_"))


def load_architecture(name: str | Path) -> Architecture:
    """Return an architecture by the path of its YAML file or run folder, or a published member.

    Raises:
        InputError: there is no such architecture, or the file is wrong.
    """
    check_name("architecture", name, "a path or a published member's name")
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        if not path.exists():
            raise InputError(
                f"{name}: there is no such run folder or architecture file. Fix: make one with nas"
                " search"
            )
        return read_architecture(path / "architecture.yaml" if path.is_dir() else path)
    # A bare name: a published member has priority over a folder that happens to have the same name.
    members = published_members()
    if str(name) in members:
        return members[str(name)]
    if path.exists():
        return read_architecture(path / "architecture.yaml" if path.is_dir() else path)
    raise InputError(
        f"unknown architecture '{name}'{nearest(str(name), members)}. Fix: a published member (`nas"
        " spaces` lists them), or the path of a YAML file or run folder"
    )


def _files() -> dict[str, Path]:
    """Return the spaces of the working directory and the shipped ones, by name."""
    return resources.names(resources.SPACES, "*.yaml")


def _brought() -> dict[str, Plugin]:
    """Return the spaces of other packages, by name.

    Only shipped names are reserved: a space of the working directory may have the name of a
    plugin's and replaces it.
    """
    return plugins(
        SPACES, {path.stem for path in resources.shipped(resources.SPACES).glob("*.yaml")}
    )


__all__ = [
    "Architecture",
    "Operation",
    "Space",
    "Stage",
    "StageSpace",
    "load_architecture",
    "load_space",
    "published_member",
    "published_members",
    "space_names",
]
