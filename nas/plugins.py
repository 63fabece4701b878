"""Plugins: blocks, spaces, devices and more that other packages provide.

The registry of each kind finds them here by their entry points:

| group            | name     | value                                                                          |
|------------------|----------|--------------------------------------------------------------------------------|
| nas.blocks       | its kind | the spec, a `nas.blocks.BlockSpec` whose `module` says where its module is     |
| nas.spaces       | its name | the package in which `<name>.yaml` lies                                        |
| nas.devices      | its name | a function from `nas.devices.Settings` to a `nas.devices.Device`               |
| nas.device_kinds | its name | a `nas.devices.DeviceKind`: a way to reach any number of devices               |
| nas.tasks        | its name | a `nas.tasks.Task`: what the heads that name it are trained for                |
| nas.farms        | its name | a `nas.devices.farms.Farm`: a service that runs bundles on real devices        |
| nas.engines      | its name | a function from `nas.search.Problem` to `nas.search.Found`                     |
| nas.targets      | its name | a `nas.export.target.Target`                                                   |
| nas.formats      | its name | a `nas.latency.importing.common.Format`: a reader of other latency files       |

Entry points are read when a name is not one of ours. A package is imported only when one of its
names is used; device kinds are imported too when a device is looked for that is none of ours.
`nas.testing` has the tests that each plugin should pass.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas.errors import InputError, NasError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BLOCKS = "nas.blocks"
SPACES = "nas.spaces"
DEVICES = "nas.devices"
DEVICE_KINDS = "nas.device_kinds"
TASKS = "nas.tasks"
FARMS = "nas.farms"
ENGINES = "nas.engines"
TARGETS = "nas.targets"
FORMATS = "nas.formats"
PREFIX = "nas."
OURS = "nas-mobile"

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Plugin:
    """One block, space, device or other plugin of another package.

    Attributes:
        entry: its entry point.
        package: the distribution that provides it, as pip names it.
        version: the version of that distribution.
    """

    entry: EntryPoint
    package: str
    version: str

    @property
    def what(self) -> str:
        """Return the kind of the plugin for messages: "block", "device kind"."""
        return self.entry.group.removeprefix(PREFIX).removesuffix("s").replace("_", " ")

    def load(self) -> Any:
        """Return the object that the entry point refers to.

        Raises:
            InputError: when importing it fails.
        """
        try:
            return self.entry.load()
        except Exception as error:
            raise self.broken(
                f"{self.entry.value} cannot be imported ({line_of(error)})"
            ) from error

    def file(self, suffix: str) -> Path:
        """Return the file named after the entry point in the package that it refers to.

        Raises:
            InputError: when the package or the file does not exist.
        """
        try:
            paths = list(importlib.import_module(self.entry.value).__path__)
        except Exception as error:
            raise self.broken(
                f"{self.entry.value} is not a package that can be imported ({line_of(error)})"
            ) from error
        for folder in paths:
            path = Path(folder) / f"{self.entry.name}{suffix}"
            if path.is_file():
                return path
        raise self.broken(f"{self.entry.name}{suffix} is missing in {self.entry.value}")

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Turn errors inside the context into one line that names the package.

        A NasError is the package's message for the user and passes. Anything else is a bug in it.
        """
        try:
            yield
        except NasError:
            raise
        except Exception as error:
            raise self.broken(line_of(error)) from error

    def broken(self, reason: str) -> InputError:
        """Return an error about this plugin, which names the package to repair or remove."""
        return InputError(
            f"{self.what} '{self.entry.name}' of package {self.package}: {reason}. Fix: repair that"
            f" package, or remove it: pip uninstall {self.package}"
        )


class Registry(Mapping[str, Entry]):
    """Mapping from names to objects of one kind: ours, then those of other packages.

    Each object is imported at its first access.

    Args:
        group: the group of the entry points, for example "nas.engines". An entry point refers to
            the same kind of object as the references in `ours`.
        ours: references "package.module:object" by name.
        kind: reference to the class that objects of other packages must be instances of. Without
            it any callable is accepted.
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
        # Objects of other packages are checked here, where the package can be named in the error.
        value = plugin.load()
        if self.kind and not isinstance(value, import_object(self.group, self.kind)):
            raise plugin.broken(f"{plugin.entry.value} is not a {self.kind.replace(':', '.')}")
        if not self.kind and not callable(value):
            raise plugin.broken(f"{plugin.entry.value} cannot be called")
        return value  # type: ignore[no-any-return]

    def plugin(self, name: str) -> Plugin | None:
        """Return the plugin behind a name, for its errors; None for objects of ours."""
        return None if name in self.ours else plugins(self.group, self.ours)[name]

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
    """Return the plugins of a group by name; `ours` are the names that we use ourselves.

    Raises:
        InputError: naming both packages, when a name is used by us or by another package.
    """
    by_name: dict[str, Plugin] = {}
    for plugin in _installed().get(group, ()):
        name = plugin.entry.name
        other = OURS if name in ours else by_name[name].package if name in by_name else None
        if other is not None:
            raise InputError(
                f"{plugin.what} '{name}' of package {plugin.package}: package {other} also has this"
                f" name. Fix: rename one of them, or pip uninstall {plugin.package}"
            )
        by_name[name] = plugin
    return by_name


@cache
def _installed() -> dict[str, tuple[Plugin, ...]]:
    """Return the plugins of every group of ours, sorted.

    Cached, as reading the metadata of all packages is slow.
    """
    from importlib.metadata import entry_points

    listed = entry_points()
    installed: dict[str, tuple[Plugin, ...]] = {}
    for group in listed.groups:
        if not group.startswith(PREFIX):
            continue
        found = (
            Plugin(
                entry,
                entry.dist.name if entry.dist else "unknown",
                entry.dist.version if entry.dist else "",
            )
            for entry in listed.select(group=group)
        )
        # A set, as an installation that is on sys.path twice lists its entry points twice.
        unique = set(found)
        installed[group] = tuple(sorted(unique, key=lambda each: (each.entry.name, each.package)))
    return installed


def import_object(what: str, reference: str) -> Any:
    """Return the object of a reference "package.module:object".

    Raises:
        InputError: when importing it fails.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise InputError(
            f"{what}: {reference} cannot be imported ({line_of(error)}). Fix: repair or remove that"
            " package"
        ) from error


def line_of(error: Exception) -> str:
    """Return an error as one line: its class and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
