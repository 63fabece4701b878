"""List the connected Android phones and open those of a name, for the kind of device."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nas.convert.chain import DeviceLost
from nas.convert.converter import Converter
from nas.devices.android import KIND
from nas.devices.android.adb import (
    Adb,
    battery_percent,
    listing,
    thermal_name,
    thermal_status,
    why_not,
)
from nas.devices.android.benchmark_tool import benchmark_tool
from nas.devices.android.device import Android, Settings, Warn
from nas.devices.base import Device
from nas.devices.kinds import ConnectedPhone
from nas.devices.phones import Phone, recognise
from nas.errors import InputError, NasError

ABI = "arm64-v8a"
_PRECISION = {"cpu": "float32", "gpu": "float16"}


def connected_phones() -> list[ConnectedPhone]:
    """Return the phones that adb sees, with those that cannot be used.

    An adb server is started only where a phone is plugged in. Empty where adb does not work at all.
    """
    try:
        states = listing(start=False)
    except NasError:
        return []
    if not states:
        return []
    # All phones are asked at once: each answer takes a while, and one that hangs takes ANSWER_S.
    with ThreadPoolExecutor(len(states)) as pool:
        return list(pool.map(_look, states, states.values()))


def open_android(
    wanted: str,
    converter: Converter,
    unit: str | None = None,
    threads: int | None = None,
    affinity: str | None = None,
    tool: Path | None = None,
    warn: Warn = lambda _: None,
) -> list[Device]:
    """Return the connected phones of a name, or the one of a serial number, ready to measure.

    Args:
        wanted: name or serial number.
        converter: makes the files of all of them.
        unit: cpu or gpu (default: as `phone.yaml` says).
        threads: CPU threads (default: as `phone.yaml` says).
        affinity: hexadecimal mask of their cores, empty for all (default: as `phone.yaml` says).
        tool: the `benchmark_model` to use; see `benchmark_tool`.
        warn: is called with what the user should know while a phone cools down.

    Raises:
        InputError: when there is no such phone, it is not arm64, or the settings do not fit.
        NasError: when the phone cannot be used, or the tool is not available.
    """
    states = listing()
    if wanted in states and states[wanted] != "device":
        raise NasError(f"phone {wanted}: {why_not(states[wanted])}")
    found = _ready(states, wanted)
    chosen = found if wanted in states else _of_name(wanted, found)
    if not chosen:
        raise InputError(_not_there(wanted, states, found))
    settings = {
        serial: _settings(serial, properties, unit, threads, affinity)
        for serial, properties in chosen.items()
    }
    program = benchmark_tool(tool)
    return [
        Android(Adb(serial), each, program, converter, warn) for serial, each in settings.items()
    ]


def _ready(states: dict[str, str], wanted: str) -> dict[str, dict[str, str]]:
    """Return the properties of the phones that may be meant, by serial.

    One that is lost meanwhile is marked offline in `states`, unless it is the wanted one.
    """
    found = {}
    for serial, state in list(states.items()):
        if state == "device" and (wanted not in states or serial == wanted):
            try:
                found[serial] = Adb(serial).properties()
            except DeviceLost:
                if serial == wanted:
                    raise
                states[serial] = "offline"
    return found


def _look(serial: str, state: str) -> ConnectedPhone:
    if state != "device":
        return ConnectedPhone(serial, problem=why_not(state))
    try:
        phone = Adb(serial)
        properties = phone.properties()
        battery = battery_percent(phone.run("dumpsys", "battery").stdout)
        status = thermal_status(phone.run("dumpsys", "thermalservice").stdout)
    except DeviceLost as error:
        return ConnectedPhone(serial, problem=error.reason)
    known = _known(properties)
    return ConnectedPhone(
        serial,
        properties.get("ro.product.model", ""),
        properties.get("ro.soc.model", ""),
        _os(properties),
        battery,
        None if status is None else thermal_name(status),
        known.name if known else None,
        _name(properties),
    )


def _known(properties: dict[str, str]) -> Phone | None:
    return recognise(
        KIND.name, properties.get("ro.soc.model", ""), properties.get("ro.product.model", "")
    )


def _name(properties: dict[str, str]) -> str:
    """Return the phone's known name, else its model as a name, which is its table's folder too."""
    known = _known(properties)
    slug = re.sub(r"[^a-z0-9]+", "-", properties.get("ro.product.model", "").lower()).strip("-")
    return known.name if known else slug or "android"


def _os(properties: dict[str, str]) -> str:
    build = properties.get("ro.build.display.id") or properties.get("ro.build.id", "")
    return f"Android {properties.get('ro.build.version.release', '')} ({build})"


def _of_name(name: str, found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the phones of a name, each once.

    A phone that is connected by cable and by network too has two entries in adb.
    """
    # The entry by cable, whose serial is the phone's own, comes last and overwrites the other one.
    units = {
        properties.get("ro.serialno") or serial: serial
        for serial, properties in sorted(
            found.items(), key=lambda item: item[0] == item[1].get("ro.serialno")
        )
        if _name(properties) == name
    }
    return {serial: found[serial] for serial in sorted(units.values())}


def _not_there(wanted: str, states: dict[str, str], found: dict[str, dict[str, str]]) -> str:
    there = [f"{_name(properties)} ({serial})" for serial, properties in found.items()]
    there += [
        f"{serial}, not usable: {why_not(state)}"
        for serial, state in states.items()
        if state != "device"
    ]
    return (
        f"{wanted}: is not connected (connected: {'; '.join(there) or 'none'}). Fix: plug it in,"
        " unlock it, and switch on USB debugging in its developer options"
    )


def _settings(
    serial: str,
    properties: dict[str, str],
    unit: str | None,
    threads: int | None,
    affinity: str | None,
) -> Settings:
    """Return a phone's settings: those given, else its phone.yaml's, else the CPU on one thread."""
    abi = properties.get("ro.product.cpu.abi", "")
    phone = _known(properties)
    if abi != ABI:
        raise InputError(
            f"phone {serial}: benchmark_model does not run on its processor (got"
            f" {abi or 'an unknown one'}, expected {ABI})"
        )
    unit = unit or (phone.compute_unit if phone else "cpu")
    if unit not in KIND.units:
        raise InputError(
            f"--unit: is not a unit of Android phones (got {unit}, expected"
            f" {' or '.join(KIND.units)})"
        )
    mask = affinity if affinity is not None else (phone.affinity if phone else "")
    count = threads or (phone.threads if phone and phone.threads else 1)
    _check_mask(mask, count)
    return Settings(
        name=_name(properties),
        description=phone.description if phone else properties.get("ro.product.model", ""),
        soc=phone.soc if phone else properties.get("ro.soc.model", ""),
        os=_os(properties),
        unit=unit,
        precision=phone.precision if phone and phone.compute_unit == unit else _PRECISION[unit],
        threads=count,
        affinity=mask,
    )


def _check_mask(mask: str, threads: int) -> None:
    """Raise InputError for a malformed mask, or one with fewer cores than threads."""
    if mask and not re.fullmatch(r"[0-9a-f]+", mask):
        raise InputError(
            f"--affinity: is not a hexadecimal mask of cores (got '{mask}', expected for example f0"
            " for cores 4 to 7)"
        )
    if mask and int(mask, 16).bit_count() < threads:
        raise InputError(
            f"--threads: the affinity mask {mask} has fewer cores than threads (got {threads},"
            f" expected at most {int(mask, 16).bit_count()}). Fix: a mask with one core per thread,"
            " as --affinity f0 for 4 threads"
        )
