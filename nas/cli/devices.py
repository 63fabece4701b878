"""`nas devices`: list the devices that can be measured here, and the latency tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nas.cli.output import Column, emit, next_step, say, table_text
from nas.options import Options

if TYPE_CHECKING:
    from nas.latency.known_devices import Known


@dataclass(frozen=True, kw_only=True)
class DevicesOptions(Options):
    """Options of `nas devices`: none of its own."""


def devices(options: DevicesOptions) -> None:
    """List the devices: those that are connected, and those known by their latency table."""
    from nas.devices import unlisted_devices
    from nas.latency.known_devices import known_devices

    documents = [_document(device) for device in known_devices()]
    for reason in unlisted_devices():
        say(f"note: {reason}")
    emit(documents, _text(documents))
    connected = [document["name"] for document in documents if document["connected"]]
    unmeasured = next(
        (
            document["name"]
            for document in documents
            if document["connected"] and _usable(document) and not _own(document)
        ),
        None,
    )
    if unmeasured:
        next_step(f"nas profile --space efficientformer --device {shlex.quote(unmeasured)}")
    else:
        next_step(f"nas search --space efficientformer --device {connected[0]}")


def _usable(document: dict[str, Any]) -> bool:
    """Return whether a device can be measured now: a phone may be locked or asleep."""
    units = document["units"]
    return not units or any(not unit["problem"] for unit in units)


def _own(document: dict[str, Any]) -> bool:
    """Return whether the device has a table of measurements."""
    return document["table"] is not None and document["table"]["provenance"] != "estimated"


def _document(device: Known) -> dict[str, Any]:
    return {
        "name": device.name,
        "kind": device.kind,
        "connected": device.connected,
        "table": _table(device),
        "units": [asdict(unit) for unit in device.units],
    }


def _table(device: Known) -> dict[str, Any] | None:
    from nas.latency import load_table

    if device.table is None:
        return None
    table = load_table(device.table)
    return {
        "path": str(device.table),
        "rows": len(table.rows),
        "provenance": table.provenance,
        "expected_error": table.expected_error,
        "expected_error_source": table.expected_error_source,
        "runtime": f"{table.device.runtime} {table.device.runtime_version}".strip(),
        "date": table.device.date,
    }


def _text(documents: Sequence[dict[str, Any]]) -> str:
    """Return one line per device, and below it one line per connected phone of its kind."""
    cells = [_cells(document) for document in documents]
    lines = table_text([Column()] * 4, cells, header=False).splitlines() if cells else []
    return "\n".join(
        each
        for line, document in zip(lines, documents, strict=True)
        for each in (line, *(f"    {_state(unit)}" for unit in document["units"]))
    )


def _cells(document: dict[str, Any]) -> tuple[str, str, str, str]:
    known = document["table"]
    where = "connected" if document["connected"] else "not connected"
    about = "no table"
    if known is not None:
        error = (
            ""
            if known["expected_error"] is None
            else f", expected error {known['expected_error']:.1f} %"
        )
        about = f"{known['rows']} rows, {known['provenance']}{error} ({known['path']})"
    return document["name"], document["kind"], where, about


def _state(unit: dict[str, Any]) -> str:
    """Return the line of one phone."""
    if unit["problem"]:
        return f"{unit['serial']}: {unit['problem']}"
    battery = "" if unit["battery"] is None else f"battery {unit['battery']} %"
    # Before Android 10 a phone does not say how hot it is.
    thermal = f"thermal state {unit['thermal'] or 'unknown'}"
    state = ", ".join(filter(None, (unit["model"], unit["soc"], unit["os"], battery, thermal)))
    return f"{unit['serial']}: {state}"
