"""List and open devices, which measure exported networks. Imports no torch.

There is one file or folder per kind of device; `nas.devices.kinds` has their registry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

from nas.convert.chain import Chain, DeviceLost, Interrupted, OperationFailed
from nas.devices.base import Device, Timing
from nas.devices.kinds import (
    KINDS,
    Connected,
    ConnectedPhone,
    DeviceKind,
    Opening,
    Settings,
    kind_of_fixed_name,
)
from nas.devices.precision import litert_target
from nas.errors import InputError
from nas.plugins import DEVICES, Plugin, plugins

if TYPE_CHECKING:
    from nas.convert.converter import Converter


class UnknownDevice(InputError):
    """A name that no connected device, phone.yaml or other package has."""


def connected_devices() -> list[Connected]:
    """Return the devices that are connected here.

    This computer comes first, then the devices of the other kinds, then single devices of other
    packages.
    """
    connected: dict[str, Connected] = {}
    for name in KINDS:
        kind = KINDS[name]
        with _naming(name):
            listed = kind.connected()
        for device in listed:
            # Where two kinds have a device of one name, the first one is opened.
            connected.setdefault(device.name, device)
    for name, plugin in _single_devices().items():
        connected[name] = Connected(name, f"of {plugin.package}")
    return list(connected.values())


def unlisted_devices() -> list[str]:
    """Return why devices cannot be listed here, with the remedies: one sentence per kind."""
    reasons: list[str] = []
    for name in KINDS:
        kind = KINDS[name]
        with _naming(name):
            reasons.append(kind.unlisted())
    return list(filter(None, reasons))


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
    from nas.devices.phones import phones

    @cache
    def shared_converter() -> Converter:
        # The converter of all devices of a profile makes files of one precision. A device that was
        # named by a table of another precision, as pixel-8-int8, needs its own.
        if converter is not None and converter.target is litert_target(settings.precision):
            return converter
        made = litert_converter(settings.precision)
        stack.callback(made.close)
        return made

    # First the names that need no look at a file, an entry point or a cable.
    kind = kind_of_fixed_name(name)
    if kind is not None:
        return kind.open(name, settings, Opening(None, shared_converter, say))
    # A package cannot use the name of a device of ours: `_single_devices` refuses it.
    single_devices = _single_devices()
    if name in single_devices:
        return [_open_single(single_devices[name], settings)]
    phone = phones().get(name)
    if phone is not None:
        return _open_of_kind(phone.kind, name, settings, Opening(phone, shared_converter, say))
    # Last the names that only a look at what is connected can tell.
    for kind_name in KINDS:
        kind = KINDS[kind_name]
        with _naming(kind_name):
            has_it = kind.has(name)
        if has_it:
            return _open_of_kind(kind_name, name, settings, Opening(None, shared_converter, say))
    raise UnknownDevice(f"unknown device '{name}'. Fix: `nas devices` lists the known ones")


def _open_of_kind(kind_name: str, name: str, settings: Settings, opening: Opening) -> list[Device]:
    """Return the devices of a name and a kind; an error of a package's own names the package."""
    kind = KINDS[kind_name]
    with _naming(kind_name):
        devices = kind.open(name, settings, opening)
        if not devices or not all(isinstance(device, Device) for device in devices):
            raise TypeError(f"open gave {devices!r}, expected a list of nas.devices.Device")
    return devices


def _naming(kind_name: str) -> AbstractContextManager[None]:
    """Return a context that names the package in errors of its kind; nothing for ours."""
    plugin = KINDS.plugin(kind_name)
    return plugin.naming() if plugin else nullcontext()


def _single_devices() -> dict[str, Plugin]:
    """Return the single devices of other packages by name, without importing them."""
    from nas.devices.phones import phones

    fixed_names = {name for kind in KINDS.ours for name in KINDS[kind].fixed_names}
    return plugins(DEVICES, {*fixed_names, *phones()})


def _open_single(plugin: Plugin, settings: Settings) -> Device:
    """Return a single device of another package; any error of its own names the package."""
    opener = plugin.load()
    if not callable(opener):
        raise plugin.broken(f"{plugin.entry.value} is not a function that opens a device")
    with plugin.naming():
        device: object = opener(settings)
    if not isinstance(device, Device):
        kind = type(device).__name__
        raise plugin.broken(
            f"{plugin.entry.value} gave a {kind}, which is not a nas.devices.Device"
        )
    return device


def litert_converter(precision: str | None = None) -> Converter:
    """Return a converter on all cores, for devices that leave this computer's cores to it.

    Args:
        precision: in which the devices run the files.
    """
    from nas.convert.converter import MOST_WORKERS, Converter

    return Converter(min(os.cpu_count() or 1, MOST_WORKERS), target=litert_target(precision))


__all__ = [
    "KINDS",
    "Chain",
    "Connected",
    "ConnectedPhone",
    "Device",
    "DeviceKind",
    "DeviceLost",
    "Interrupted",
    "Opening",
    "OperationFailed",
    "Settings",
    "Timing",
    "UnknownDevice",
    "connected_devices",
    "litert_converter",
    "opened",
    "unlisted_devices",
]
