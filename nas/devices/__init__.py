"""List and open devices, which measure exported networks. Imports no torch.

There is one file or folder per kind of device.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.convert.chain import Chain, DeviceLost, OperationFailed
from nas.devices.base import Device, Timing
from nas.errors import InputError, NasError, nearest
from nas.extras import need
from nas.plugins import DEVICES, Plugin, line_of, plugins

if TYPE_CHECKING:
    from nas.convert.converter import Converter
    from nas.devices.android.discovery import ConnectedPhone
    from nas.devices.phones import Phone

HOST = "host"
MAC = "mac"


@dataclass(frozen=True)
class Connected:
    """A device that is connected here.

    Attributes:
        name: what `--device` takes.
        kind: as in `device.yaml`, or the package that provides the device.
        units: Android phones of this name, with their state.
    """

    name: str
    kind: str
    units: tuple[ConnectedPhone, ...] = ()


class UnknownDevice(InputError):
    """A name that no connected device, phone.yaml or other package has."""


@dataclass(frozen=True)
class Settings:
    """Settings of a device; None leaves one to the device's phone.yaml.

    Attributes:
        unit: compute unit: cpu or gpu on an Android phone; all, cpu_and_ne, cpu_and_gpu or cpu_only
            with Core ML.
        threads: CPU threads.
        affinity: cores of an Android phone, as a hexadecimal mask for `taskset`; every core if
            empty.
        tool: `benchmark_model` for Android phones, instead of LiteRT's release.
    """

    unit: str | None = None
    threads: int | None = None
    affinity: str | None = None
    tool: Path | None = None


def connected_devices() -> list[Connected]:
    """Return the devices that are connected here.

    This computer comes first, then phones, then the devices of other packages.
    """
    connected = {HOST: Connected(HOST, "litert-host")}
    for unit in _android_phones():
        name = unit.name or unit.serial
        before = connected.get(name, Connected(name, "litert-android"))
        connected[name] = replace(before, units=(*before.units, unit))
    for name in _apple_phones():
        connected[name] = Connected(name, "coreml")
    for name, plugin in _brought().items():
        connected[name] = Connected(name, f"of {plugin.package}")
    return list(connected.values())


@contextmanager
def opened(
    name: str,
    settings: Settings,
    converter: Converter | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Device]]:
    """Open the devices of a name, one or all phones of a model, and close them at the end.

    Args:
        name: of a device, or the serial number of an Android phone.
        settings: how they run operations.
        converter: for devices that run LiteRT behind a cable; several that are profiled together
            share one.
        say: is called with what the user should know while a device waits.

    Raises:
        InputError: for an unknown name, a device that is not connected, or settings that it does
            not have.
    """
    with ExitStack() as stack:
        for device in (devices := _open(name, settings, converter, say, stack)):
            stack.callback(device.close)
        yield devices


def _open(
    name: str,
    settings: Settings,
    converter: Converter | None,
    say: Callable[[str], None],
    stack: ExitStack,
) -> list[Device]:
    from nas.devices.phones import ANDROID, COREML, phones

    if name == HOST:
        from nas.devices.host.device import Host

        if settings.unit not in (None, "cpu"):
            raise InputError(
                f"--unit: is not available on the host (got {settings.unit}, expected cpu)"
            )
        return [Host(settings.threads or 1)]
    phone = phones().get(name)
    if name == MAC or (phone is not None and phone.kind == COREML):
        return [_coreml(phone, settings)]
    # A package cannot use the name of a device of nas: `_brought` refuses it.
    plugin_devices = _brought()
    if name in plugin_devices:
        return [_open_brought(plugin_devices[name], settings)]
    # Android phones come last, as the list of connected ones needs adb.
    connected = {text for unit in _android_phones() for text in (unit.serial, unit.name)}
    if (phone is not None and phone.kind == ANDROID) or name in connected:
        from nas.devices.android.discovery import open_android

        need(f"--device {name}", "android")
        if converter is None:
            converter = litert_converter()
            stack.callback(converter.close)
        return open_android(
            name, converter, settings.unit, settings.threads, settings.affinity, settings.tool, say
        )
    raise UnknownDevice(f"unknown device '{name}'{nearest(name, [*phones(), *connected])}")


def _brought() -> dict[str, Plugin]:
    """Return the devices of other packages by name; opening one shows whether it can be reached."""
    from nas.devices.phones import phones

    return plugins(DEVICES, {HOST, MAC, *phones()})


def _open_brought(plugin: Plugin, settings: Settings) -> Device:
    """Return the device of another package; any error of its own names the package."""
    opener = plugin.load()
    if not callable(opener):
        raise plugin.broken(f"{plugin.entry.value} is not a function that opens a device")
    # A NasError is the package's message for the user. Anything else is a bug in the package.
    try:
        device: object = opener(settings)
    except NasError:
        raise
    except Exception as error:
        raise plugin.broken(line_of(error)) from error
    if not isinstance(device, Device):
        kind = type(device).__name__
        raise plugin.broken(
            f"{plugin.entry.value} gave a {kind}, which is not a nas.devices.Device"
        )
    return device


def litert_converter() -> Converter:
    """Return a converter on all cores, for devices that leave this computer's cores to it."""
    from nas.convert.converter import MOST_WORKERS, Converter

    return Converter(min(os.cpu_count() or 1, MOST_WORKERS))


def _coreml(phone: Phone | None, settings: Settings) -> Device:
    from nas.devices.coreml import CoreML, mac

    chosen = phone or mac()
    return CoreML(chosen if settings.unit is None else replace(chosen, compute_unit=settings.unit))


def _android_phones() -> list[ConnectedPhone]:
    from nas.devices.android.discovery import connected_phones

    return connected_phones()


def _apple_phones() -> list[str]:
    """Return the names of the iPhones that are connected to this Mac."""
    if platform.system() != "Darwin":
        return []
    from nas.devices.coreml import connected_phones
    from nas.devices.phones import COREML, recognise

    names: list[str] = []
    with suppress(NasError):
        for connected in connected_phones():
            phone = recognise(COREML, "", connected.product)
            names += [phone.name] if phone else []
    return names


__all__ = [
    "HOST",
    "Chain",
    "Connected",
    "Device",
    "DeviceLost",
    "OperationFailed",
    "Settings",
    "Timing",
    "UnknownDevice",
    "connected_devices",
    "litert_converter",
    "opened",
]
