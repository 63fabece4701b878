"""Devices: what measures exported networks. One file a kind of device; imports no torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.devices.base import Chain, Device, DeviceLost, OperationFailed, Timing
from nas.errors import InputError, NasError, nearest
from nas.extras import need
from nas.plugins import DEVICES, Plugin, line_of, plugins

if TYPE_CHECKING:
    from nas.devices.android_phones import ConnectedPhone
    from nas.devices.converter import Converter
    from nas.devices.phones import Phone

HOST, MAC = "host", "mac"


@dataclass(frozen=True)
class Known:
    """A device that can be named: one that is connected, or one that has a latency table or a phone.yaml.

    Attributes:
        table: the folder of its table, or None.
        units: the phones of this name that are connected, with their state.
    """

    name: str
    kind: str
    connected: bool
    table: Path | None
    units: tuple[ConnectedPhone, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How a device is to run operations; what is None is left to the device's phone.yaml.

    Attributes:
        unit: the compute unit: cpu or gpu of an Android phone, all, cpu_and_ne, cpu_and_gpu or cpu_only of Core ML.
        threads: CPU threads.
        affinity: the cores of an Android phone as a hexadecimal mask, as `taskset` takes it; none if empty.
        tool: the `benchmark_model` for Android phones, instead of LiteRT's release.
    """

    unit: str | None = None
    threads: int | None = None
    affinity: str | None = None
    tool: Path | None = None


def known_devices() -> list[Known]:
    """The devices that are connected here, then those known by their table or phone.yaml alone."""
    from nas.devices.phones import phones
    from nas.latency.device_info import load_device_info
    from nas.latency.table import DEVICE_FILE, table_names

    tables = table_names()
    kinds: dict[str, str] = {name: phone.kind for name, phone in phones().items()}
    kinds |= {name: load_device_info(folder / DEVICE_FILE).kind for name, folder in tables.items()}
    connected = {HOST: Known(HOST, "litert-host", True, tables.get(HOST))}
    for unit in _android_phones():
        name = unit.name or unit.serial
        before = connected.get(name, Known(name, "litert-android", True, tables.get(name)))
        connected[name] = replace(before, units=(*before.units, unit))
    for name in _apple_phones():
        connected[name] = Known(name, "coreml", True, tables.get(name))
    for name, plugin in _brought().items():
        connected[name] = Known(name, f"of {plugin.package}", True, tables.get(name))
    others = [Known(name, kinds[name], False, tables.get(name)) for name in sorted(kinds) if name not in connected]
    return [*connected.values(), *others]


@contextmanager
def opened(
    name: str, settings: Settings, converter: Converter | None = None, say: Callable[[str], None] = lambda _: None
) -> Iterator[list[Device]]:
    """The devices of this name, ready to measure: one, or all phones of a model. They are closed at the end.

    Args:
        converter: for devices that run LiteRT behind a cable; several that are profiled together share one.
        say: is told what the user should know while a device waits.

    Raises:
        InputError: for an unknown name, a device that is not connected, or settings that it does not have.
    """
    with ExitStack() as stack:
        for device in (devices := _open(name, settings, converter, say, stack)):
            stack.callback(device.close)
        yield devices


def _open(
    name: str, settings: Settings, converter: Converter | None, say: Callable[[str], None], stack: ExitStack
) -> list[Device]:
    from nas.devices.phones import ANDROID, COREML, phones

    if name == HOST:
        from nas.devices.host import Host

        if settings.unit not in (None, "cpu"):
            raise InputError(f"--unit {settings.unit}: the host is measured on its cpu")
        return [Host(settings.threads or 1)]
    phone = phones().get(name)
    if name == MAC or (phone is not None and phone.kind == COREML):
        return [_coreml(phone, settings)]
    brought = _brought()
    if name in brought:
        return [_open_brought(brought[name], settings)]
    connected = {text for unit in _android_phones() for text in (unit.serial, unit.name)}
    if (phone is not None and phone.kind == ANDROID) or name in connected:
        from nas.devices.android_phones import open_android

        need(f"--device {name}", "android")
        if converter is None:
            converter = litert_converter()
            stack.callback(converter.close)
        return open_android(name, converter, settings.unit, settings.threads, settings.affinity, settings.tool, say)
    raise InputError(_unknown(name))


def _brought() -> dict[str, Plugin]:
    """The devices of other packages. Whether they can be reached shows when they are opened."""
    from nas.devices.phones import phones

    return plugins(DEVICES, {HOST, MAC, *phones()})


def _open_brought(plugin: Plugin, settings: Settings) -> Device:
    opener = plugin.load()
    if not callable(opener):
        raise plugin.broken(f"{plugin.entry.value} is no function that opens a device")
    try:
        device: object = opener(settings)
    except NasError:
        raise
    except Exception as error:
        raise plugin.broken(line_of(error)) from error
    if not isinstance(device, Device):
        kind = type(device).__name__
        raise plugin.broken(f"{plugin.entry.value} gave a {kind}, which is not a nas.devices.Device")
    return device


def litert_converter() -> Converter:
    """For devices that leave all of this computer's cores to it."""
    from nas.devices.converter import MOST_WORKERS, Converter

    return Converter(min(os.cpu_count() or 1, MOST_WORKERS))


def _coreml(phone: Phone | None, settings: Settings) -> Device:
    from nas.devices.coreml import CoreML, mac

    chosen = phone or mac()
    return CoreML(chosen if settings.unit is None else replace(chosen, compute_unit=settings.unit))


def _unknown(name: str) -> str:
    known = {device.name: device for device in known_devices()}
    if name not in known:
        return f"unknown device '{name}'{nearest(name, known)}"
    from nas.latency.device_info import load_device_info
    from nas.latency.table import DEVICE_FILE

    table = known[name].table
    assert table is not None
    provenance = load_device_info(table / DEVICE_FILE).provenance
    return (f"{name} is not connected, and nothing says how to reach it; its table {table} is {provenance}, and one "
            f"of your own measurements in ./latency_tables/{name} would replace it")  # fmt: skip


def _android_phones() -> list[ConnectedPhone]:
    from nas.devices.android_phones import connected_phones

    return connected_phones()


def _apple_phones() -> list[str]:
    """The names of the iPhones that are connected to this Mac."""
    if platform.system() != "Darwin":
        return []
    from nas.devices.coreml import connected_phones
    from nas.devices.phones import COREML, recognise

    found: list[str] = []
    with suppress(NasError):
        for connected in connected_phones():
            phone = recognise(COREML, "", connected.product)
            found += [phone.name] if phone else []
    return found


__all__ = ["HOST", "Chain", "Device", "DeviceLost", "Known", "OperationFailed", "Settings", "Timing", "known_devices",
           "litert_converter", "opened"]  # fmt: skip
