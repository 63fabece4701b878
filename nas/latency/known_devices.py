"""List all devices that have a name, for `nas devices`, and open one, for profile and check.

They are connected, or have a latency table or a phone.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas import devices
from nas.devices import ConnectedPhone, Device, Settings, UnknownDevice, connected_devices
from nas.devices.info import load_device_info
from nas.devices.phones import phones
from nas.errors import InputError, nearest
from nas.latency.table import DEVICE_FILE, table_names

if TYPE_CHECKING:
    from nas.convert.converter import Converter


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
    kinds |= {name: load_device_info(folder / DEVICE_FILE).kind for name, folder in tables.items()}
    known = {
        each.name: Known(each.name, each.kind, True, tables.get(each.name), each.units)
        for each in connected_devices()
    }
    others = [
        Known(name, kinds[name], False, tables.get(name))
        for name in sorted(kinds)
        if name not in known
    ]
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
    with ExitStack() as stack:
        try:
            units = stack.enter_context(devices.opened(name, settings, converter, say))
        except UnknownDevice:
            raise InputError(_unknown(name)) from None
        yield units


def _unknown(name: str) -> str:
    """Return the message for a name that no device here can be opened by."""
    known = {device.name: device for device in known_devices()}
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
