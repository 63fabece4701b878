"""What other packages bring: blocks, spaces, devices, engines, export targets, table formats, by
their entry points.

| group       | name       | value                                                                              |
|-------------|------------|------------------------------------------------------------------------------------|
| nas.blocks  | its kind   | the spec, a `nas.blocks.BlockSpec` whose `module` says where the block's module is  |
| nas.spaces  | its name   | the package in which `<name>.yaml` lies                                            |
| nas.devices | its name   | a function from `nas.devices.Settings` to a `nas.devices.Device`                   |
| nas.engines | its name   | a function from `nas.search.Problem` to `nas.search.Found`                         |
| nas.targets | its name   | a `nas.export.target.Target`                                                       |
| nas.formats | its name   | a `nas.latency.importing.common.Format`: a reader of other tools' latency files    |

Entry points are looked through when a name is asked for that is none of ours, and nothing of a
package is imported before the name that it brings. `nas.testing` has the tests that each should
pass.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BLOCKS = "nas.blocks"
SPACES = "nas.spaces"
DEVICES = "nas.devices"
ENGINES = "nas.engines"
TARGETS = "nas.targets"
FORMATS = "nas.formats"
OURS = "nas-mobile"

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Plugin:
    """One block, space or device of another package.

    Attributes:
        package: the distribution that brings it, as pip names it.
        version: of that.
    """

    entry: EntryPoint
    package: str
    version: str

    @property
    def what(self) -> str:
        return self.entry.group.removeprefix("nas.").removesuffix("s")

    def load(self) -> Any:
        """Return the object that the entry point refers to. Raises InputError where importing it
        fails."""
        try:
            return self.entry.load()
        except Exception as error:
            raise self.broken(
                f"{self.entry.value} cannot be imported ({line_of(error)})"
            ) from error

    def file(self, suffix: str) -> Path:
        """Return the file called after the entry point in the package that it refers to.

        Raises:
            InputError: when there is no such package, or no such file in it.
        """
        try:
            paths = list(importlib.import_module(self.entry.value).__path__)
        except Exception as error:
            raise self.broken(
                f"{self.entry.value} is no package that can be imported ({line_of(error)})"
            ) from error
        for folder in paths:
            path = Path(folder) / f"{self.entry.name}{suffix}"
            if path.is_file():
                return path
        raise self.broken(f"there is no {self.entry.name}{suffix} in {self.entry.value}")

    def broken(self, reason: str) -> InputError:
        return InputError(
            f"{self.what} '{self.entry.name}' of package {self.package}: {reason}; repair that"
            f" package, or remove it: pip uninstall {self.package}"
        )


class Registry(Mapping[str, Entry]):
    """Things of one kind by name: ours, then those that other packages bring. Each is imported when
    it is first taken.

    Args:
        group: of the entry points, as "nas.engines". An entry point names what the reference of one
            of ours does.
        ours: "package.module:object" by name.
        kind: the class that an object must have, by such a reference too; without it any callable
            will do.
    """

    def __init__(self, group: str, ours: Mapping[str, str], kind: str = "") -> None:
        self.group = group
        self.ours = dict(ours)
        self.kind = kind

    def __getitem__(self, name: str) -> Entry:
        if name in self.ours:
            module, _, attribute = self.ours[name].partition(":")
            entry: Entry = getattr(importlib.import_module(module), attribute)
            return entry
        plugin = plugins(self.group, self.ours)[name]
        brought = plugin.load()
        if self.kind and not isinstance(brought, import_object(self.group, self.kind)):
            raise plugin.broken(f"{plugin.entry.value} is not a {self.kind.replace(':', '.')}")
        if not self.kind and not callable(brought):
            raise plugin.broken(f"{plugin.entry.value} cannot be called")
        return brought  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in plugins(self.group, self.ours)

    def __iter__(self) -> Iterator[str]:
        yield from self.ours
        yield from plugins(self.group, self.ours)

    def __len__(self) -> int:
        return len(self.ours) + len(plugins(self.group, self.ours))

    def __repr__(self) -> str:
        return f"Registry({self.group}: {', '.join(self)})"


def plugins(group: str, ours: Collection[str]) -> dict[str, Plugin]:
    """Return what other packages bring, by name; `ours` are the names that are taken.

    Raises:
        InputError: when a name is taken, by us or by another package; both packages are named.
    """
    found: dict[str, Plugin] = {}
    for plugin in _installed(group):
        name = plugin.entry.name
        other = OURS if name in ours else found[name].package if name in found else None
        if other is not None:
            raise InputError(
                f"{plugin.what} '{name}' of package {plugin.package}: package {other} has one of"
                f" that name; it needs another one, or else: pip uninstall {plugin.package}"
            )
        found[name] = plugin
    return found


@cache
def _installed(group: str) -> tuple[Plugin, ...]:
    from importlib.metadata import entry_points

    listed = (
        Plugin(
            entry,
            entry.dist.name if entry.dist else "unknown",
            entry.dist.version if entry.dist else "",
        )
        for entry in entry_points(group=group)
    )
    return tuple(sorted(set(listed), key=lambda plugin: (plugin.entry.name, plugin.package)))


def import_object(what: str, reference: str) -> Any:
    """Return the object named as package.module:object. Raises InputError where importing it fails."""
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise InputError(
            f"{what}: {reference} cannot be imported ({line_of(error)}); repair that package or"
            " remove it"
        ) from error


def line_of(error: Exception) -> str:
    """Return an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
