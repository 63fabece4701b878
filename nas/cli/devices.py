"""`nas devices`: what can be measured here, and what has a latency table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.cli.common import Json, emit, next_step

if TYPE_CHECKING:
    from nas.devices import Known


def devices(as_json: Json = False) -> None:
    """List the devices that are connected and those that have a latency table."""
    from nas.devices import known_devices

    documents = [_document(device) for device in known_devices()]
    emit(documents, as_json, "\n".join(map(_line, documents)))
    if documents[0]["table"] is None:
        next_step("nas profile --space efficientformer --device host")
    else:
        next_step("nas search --space efficientformer --device host")


def _document(device: Known) -> dict[str, Any]:
    return {"name": device.name, "kind": device.kind, "connected": device.connected, "table": _table(device)}


def _table(device: Known) -> dict[str, Any] | None:
    from nas.latency import load_table

    if device.table is None:
        return None
    table = load_table(device.table)
    return {
        "path": str(device.table), "rows": len(table.rows), "provenance": table.provenance,
        "expected_error": table.expected_error, "expected_error_source": table.expected_error_source,
        "runtime": f"{table.device.runtime} {table.device.runtime_version}".strip(), "date": table.device.date,
    }  # fmt: skip


def _line(document: dict[str, Any]) -> str:
    table, where = document["table"], "connected" if document["connected"] else "not connected"
    line = f"{document['name']:<20}{document['kind']:<16}{where:<15}"
    if table is None:
        return line + "no table"
    error = "" if table["expected_error"] is None else f", expected error {table['expected_error']:.1f} %"
    return f"{line}{table['rows']} rows, {table['provenance']}{error} ({table['path']})"
