"""Latency tables, which predict an architecture's latency on a device. Imports no torch."""

from __future__ import annotations

from nas.devices.info import (
    Calibration,
    Check,
    DeviceInfo,
    EstimateInfo,
    Provenance,
    load_device_info,
)
from nas.latency.rows import Row
from nas.latency.table import (
    Bar,
    Estimate,
    LatencyTable,
    MissingRows,
    load_table,
    make_table,
    table_names,
)

__all__ = [
    "Bar",
    "Calibration",
    "Check",
    "DeviceInfo",
    "Estimate",
    "EstimateInfo",
    "LatencyTable",
    "MissingRows",
    "Provenance",
    "Row",
    "load_device_info",
    "load_table",
    "make_table",
    "table_names",
]
