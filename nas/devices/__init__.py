"""Devices: what measures exported networks. One file a kind of device; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.devices.base import Chain, Device, DeviceLost, OperationFailed, Timing
from nas.errors import InputError, nearest

HOST = "host"


@dataclass(frozen=True)
class Known:
    """A device that can be named: one that is connected, or one that has a latency table.

    Attributes:
        table: the folder of its table, or None.
    """

    name: str
    kind: str
    connected: bool
    table: Path | None


def known_devices() -> list[Known]:
    """The devices that are connected here, then those known by their table alone."""
    from nas.latency.device_info import load_device_info
    from nas.latency.table import DEVICE_FILE, table_names

    tables = table_names()
    others = [
        Known(name, load_device_info(folder / DEVICE_FILE).kind, connected=False, table=folder)
        for name, folder in tables.items()
        if name != HOST
    ]
    return [Known(HOST, "litert-host", connected=True, table=tables.get(HOST)), *others]


def open_device(name: str, threads: int | None = None) -> Device:
    """The device of this name, ready to measure.

    Raises:
        InputError: for an unknown name, or a device that has a table and is not connected.
    """
    if name == HOST:
        from nas.devices.host import Host

        return Host(threads or 1)
    known = {device.name: device for device in known_devices()}
    if name not in known:
        raise InputError(f"unknown device '{name}'{nearest(name, known)}")
    from nas.latency.device_info import load_device_info
    from nas.latency.table import DEVICE_FILE

    table = known[name].table
    assert table is not None
    provenance = load_device_info(table / DEVICE_FILE).provenance
    raise InputError(f"{name} is not connected, only '{HOST}' can be measured here; its table {table} is {provenance}, "
                     f"and a table of your own measurements in ./latency_tables/{name} would replace it")  # fmt: skip


__all__ = [
    "HOST",
    "Chain",
    "Device",
    "DeviceLost",
    "Known",
    "OperationFailed",
    "Timing",
    "known_devices",
    "open_device",
]
