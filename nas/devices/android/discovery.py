"""List the connected Android phones and open those of a name, for the kind of device."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from nas.convert.chain import DeviceLost
from nas.convert.converter import Converter
from nas.devices.android import KIND, core_mask
from nas.devices.android.adb import (
    Adb,
    battery_percent,
    listing,
    thermal_name,
    thermal_status,
    why_not,
)
from nas.devices.android.benchmark_tool import benchmark_tool
from nas.devices.android.device import PRECISIONS, Android, Settings, Warn
from nas.devices.base import Device
from nas.devices.info import device_name, os_major
from nas.devices.kinds import ConnectedPhone, kind_of_fixed_name
from nas.devices.phones import Phone, phones, recognise
from nas.devices.precision import check_precision, table_name
from nas.errors import InputError, NasError
from nas.files import text_sha256

ABI = "arm64-v8a"


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
    precision: str | None = None,
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
        precision: of weights and activations (default: as `phone.yaml` says). The converter makes
            files for it.

    Raises:
        InputError: when there is no such phone, it is not arm64, or the settings do not fit.
        NasError: when the phone cannot be used, or the tool is not available.
    """
    states = listing()
    if wanted in states and states[wanted] != "device":
        raise NasError(f"phone {wanted}: {why_not(states[wanted])}")
    found = _ready(states, wanted)
    by_serial = wanted in states
    chosen = found if by_serial else _of_name(wanted, found)
    if not chosen:
        raise InputError(_not_there(wanted, states, found))
    _check_alike(wanted, chosen)
    settings = {
        serial: _settings(serial, properties, unit, threads, affinity, precision)
        for serial, properties in chosen.items()
    }
    if by_serial:
        # A device is what the user named: the table of one phone is not that of its model.
        name = table_name(device_name(wanted), precision)
        settings[wanted] = replace(settings[wanted], name=name, serial=wanted)
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
        _soc(properties),
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
    if known:
        return known.name
    model = properties.get("ro.product.model", "")
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower().replace("+", " plus ")).strip("-")
    # Two models must not share a name, nor one have that of another device. Of a model in another
    # script nothing is left.
    lost = any(letter.isalpha() and not letter.isascii() for letter in model)
    taken = slug in phones() or kind_of_fixed_name(slug) is not None
    if slug and not lost and not taken:
        return device_name(slug)
    return f"{slug or 'android'}-{text_sha256(model)[:8]}"


def _soc(properties: dict[str, str]) -> str:
    """Return the chip; before Android 12 a phone names its platform alone."""
    names = ("ro.soc.model", "ro.board.platform", "ro.hardware")
    return next((properties[name] for name in names if properties.get(name)), "")


def _chip(phone: Phone | None, properties: dict[str, str]) -> str:
    """Return the chip in the words of phone.yaml, with the phone's own where these differ.

    Patterns match variants too, as SM8550-AC, whose clocks are others.
    """
    observed = _soc(properties)
    if phone is None:
        return observed or "unknown"
    return phone.soc if observed in phone.soc else f"{phone.soc}, {observed}"


def _check_alike(wanted: str, chosen: dict[str, dict[str, str]]) -> None:
    """Raise InputError where phones of one name are different ones, which share no table."""
    kinds = {
        serial: (
            properties.get("ro.product.model", ""),
            _soc(properties),
            os_major(_os(properties)),
        )
        for serial, properties in chosen.items()
    }
    if len(set(kinds.values())) > 1:
        listed = "; ".join(f"{serial}: {', '.join(kind)}" for serial, kind in kinds.items())
        raise InputError(
            f"{wanted}: different phones are connected under this name ({listed}). Fix: --device"
            " with the serial number of one"
        )


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
    precision: str | None,
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
    if unit == "npu":
        raise InputError(
            "--unit: LiteRT's benchmark_model measures the CPU and the GPU, not the NPU, of Android"
            " phones (got npu, expected cpu or gpu). Fix: have the NPU of such a phone measured in a"
            " device farm, nas profile --run BUNDLE --through qai-hub --unit npu, or measure with the"
            " vendor's own runtime and read its figures, nas profile --import FILE --device NAME"
        )
    if unit not in KIND.units:
        raise InputError(
            f"--unit: is not a unit of Android phones (got {unit}, expected"
            f" {' or '.join(KIND.units)})"
        )
    check_precision(precision, f"the {unit} of Android phones", PRECISIONS[unit])
    usual = phone.precision if phone and phone.compute_unit == unit else PRECISIONS[unit][0]
    mask = affinity if affinity is not None else (phone.affinity if phone else "")
    count = threads or (phone.threads if phone and phone.threads else 1)
    return Settings(
        name=table_name(_name(properties), precision),
        description=phone.description if phone else properties.get("ro.product.model", ""),
        soc=_chip(phone, properties),
        os=_os(properties),
        unit=unit,
        precision=precision or usual,
        threads=count,
        affinity=core_mask(mask, count),
    )
