"""List all devices that have a name, for `nas devices`, and open one, for profile and check.

They are connected, or have a latency table or a phone.yaml.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas import devices
from nas.devices import KINDS, ConnectedPhone, Device, Settings, UnknownDevice, connected_devices
from nas.devices.info import device_name, load_device_info
from nas.devices.phones import phones
from nas.devices.precision import device_of, device_options
from nas.errors import InputError, nearest
from nas.latency.table import DEVICE_FILE, table_names

if TYPE_CHECKING:
    from nas.convert.converter import Converter
    from nas.devices.info import DeviceInfo
    from nas.latency.table import LatencyTable

IMPORTED = "imported"
"""Kind of a device whose table has nothing but another tool's figures."""


@dataclass(frozen=True)
class Known:
    """A device that has a name.

    Attributes:
        name: what `--device` takes.
        kind: as in `device.yaml`, or the package that provides the device.
        connected: whether it is connected here.
        table: folder of its table, or None.
        units: connected phones of this name, with their state.
    """

    name: str
    kind: str
    connected: bool
    table: Path | None
    units: tuple[ConnectedPhone, ...] = ()


def known_devices() -> list[Known]:
    """Return the connected devices, then those known by their table or phone.yaml alone."""
    tables = table_names()
    kinds: dict[str, str] = {name: phone.kind for name, phone in phones().items()}
    infos = {name: load_device_info(folder / DEVICE_FILE) for name, folder in tables.items()}
    kinds |= {name: info.kind for name, info in infos.items()}
    known = {
        each.name: Known(each.name, each.kind, True, tables.get(each.name), each.units)
        for each in connected_devices()
    }
    units = {unit.serial: unit for each in known.values() for unit in each.units}
    others = []
    for name in sorted(kinds):
        if name in known:
            continue
        info = infos.get(name)
        # A table may be of one phone, or of a connected device in another precision.
        unit = units.get(info.serial) if info else None
        connected = unit is not None or (info is not None and device_of(info)[0] in known)
        shown = (unit,) if unit else ()
        others.append(Known(name, kinds[name], connected, tables.get(name), shown))
    return [*known.values(), *others]


@contextmanager
def opened(
    name: str,
    settings: Settings,
    converter: Converter | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Device]]:
    """Open the devices of a name, as `nas.devices.opened`.

    The error for a device that is not connected says whether it has a table.

    Raises:
        InputError: for an unknown name, a device that is not connected, or settings that it does
            not have.
    """
    device, own_settings = _device_of_table(name, settings)
    with ExitStack() as stack:
        try:
            units = stack.enter_context(devices.opened(device, own_settings, converter, say))
        except UnknownDevice:
            raise InputError(_unknown(name)) from None
        yield units


def _device_of_table(name: str, settings: Settings) -> tuple[str, Settings]:
    """Return the device and the settings that a table's name stands for, as host-int8 does.

    Other names are returned as they are.
    """
    info = table_info(name)
    if info is None:
        return name, settings
    device, precision = device_of(info)
    # A phone that was named by its serial number is meant, and no other of its model.
    if precision is None:
        return info.serial or name, settings
    return info.serial or device, replace(settings, precision=precision)


def table_info(name: str) -> DeviceInfo | None:
    """Return the device of the table of a name; None without such a table."""
    folder = table_names().get(device_name(name))
    return load_device_info(folder / DEVICE_FILE) if folder else None


def opening_of(table: LatencyTable, tool: Path | None = None) -> tuple[str, Settings]:
    """Return what opens the device of a table, and the table's own settings to compare it with.

    Args:
        table: of the device.
        tool: `benchmark_model` for Android phones.

    Raises:
        InputError: for a table that cannot be measured here: of imported figures, or of a compute
            unit that nas does not measure.
    """
    info = table.device
    device, precision = device_of(info)
    profile = shlex.join(["nas", "profile", "--space", "SPACE", *device_options(info)])
    if info.kind == IMPORTED:
        raise InputError(
            f"{info.name}: the table has imported figures alone, which say nothing of how they were"
            f" measured. Fix: connect the device and measure it, {profile}"
        )
    kind = KINDS.get(info.kind)
    unit = info.compute_unit
    if kind is not None and kind.units and unit not in kind.units:
        units = " or ".join(kind.units)
        raise InputError(
            f"{info.name}: the table is of the {unit.upper()} ({unit}), which nas does not measure on"
            f" such a device (expected {units}). Fix: measure a table of your own, {profile} --unit"
            f" {kind.units[0]} --out latency_tables/{info.name}-{kind.units[0]}"
        )
    settings = Settings(unit, info.threads, info.mask, tool, precision)
    return info.serial or device, settings


def check_owner(table: DeviceInfo, name: str, folder: Path) -> None:
    """Raise InputError where the table in a folder is of another device than the named one.

    Figures of two devices never share a table, whatever folder is given.
    """
    if not {name, device_name(name)} & {table.name, table.serial}:
        raise InputError(
            f"{folder / DEVICE_FILE}: is the table of another device (got {name}, expected"
            f" {table.name}). Fix: --out with another folder"
        )


def _unknown(name: str) -> str:
    """Return the message for a name that no device here can be opened by."""
    known = {device.name: device for device in known_devices()}
    if name not in known and device_name(name) in known:
        name = device_name(name)
    if name not in known:
        return f"unknown device '{name}'{nearest(name, known)}"
    # A phone.yaml or a connection would have opened it, or failed with another error. So its table
    # alone makes it known.
    table = known[name].table
    assert table is not None
    provenance = load_device_info(table / DEVICE_FILE).provenance
    return (
        f"{name}: is not connected, and no phone.yaml describes how to reach it; only its table"
        f" {table} ({provenance}) is known, and a table of your own in ./latency_tables/{name}"
        " would replace it"
    )
