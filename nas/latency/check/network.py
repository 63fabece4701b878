"""Measure a searched network on its device and compare it with the table, for `nas check RUN`.

The comparison goes down to single operations. The published member that one would ship otherwise
(`Rival`) is measured by turns with the network: a search that was led by wrong predictions must
show against the rival's measured latency, not its predicted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nas.blocks import Operation
from nas.convert.chain import EMPTY, Chain, OperationFailed, Weights
from nas.devices.base import Device, StartUp
from nas.devices.kinds import KINDS
from nas.devices.precision import DEFAULT
from nas.errors import InputError
from nas.files import file_sha256, tree_sha256, write_yaml
from nas.latency.check.turns import measure_by_turns
from nas.latency.network_times import Progress
from nas.latency.profile.journal import check_settings
from nas.latency.table import DEVICE_FILE, Estimate, LatencyTable
from nas.runs.schema import WEIGHTS_FORMAT
from nas.space import Architecture
from nas.versions import versions
from nas.weight_files import check_digest

FORMAT = "nas-run-check-1"
RIVAL_TURNS = 3
"""Minimum number of turns of network and rival.

With one turn, a device that heats up would favour the network that is measured first.
"""
FOUND = "found"
EXPORT = "export"
RIVAL = "rival"


@dataclass(frozen=True)
class OperationTime:
    """One operation of the network, or the cost of a call (named `intercept`), in ms.

    Attributes:
        measured_ms: None where the device gives no times of operations.
    """

    name: str
    kind: str
    predicted_ms: float
    measured_ms: float | None


@dataclass(frozen=True)
class Rival:
    """The published member that one would ship without the search, and the reason in words."""

    architecture: Architecture
    reason: str


@dataclass(frozen=True)
class RivalCheck:
    """Predicted and measured latency of the rival, which has random weights.

    Attributes:
        name: of the published member.
        reason: why it is this member, in words.
        predicted_ms: None where the table lacks rows for it.
        measured_ms: None where the device could not run it.
        error_percent: of the prediction; None where either latency is missing.
        failure: why the device could not run it; empty otherwise.
    """

    name: str
    reason: str
    predicted_ms: float | None
    measured_ms: float | None
    error_percent: float | None
    failure: str


@dataclass(frozen=True)
class RunCheck:
    """Predicted and measured latency of a network and of its operations.

    Attributes:
        error_percent: of the prediction; positive where it is too high.
        provenance: of the prediction.
        expected_error: of the prediction, in percent.
        weights: file of the weights that were measured; None where they were random.
        exported: file that `nas export` wrote for such a device; None where there is none.
        exported_ms: its latency. It takes an image in the layout of apps and normalises it, which
            no table counts.
        rival: the published member that was measured by turns; None where there is none.
        ratio: measured latency over the rival's; None where either is missing.
        predicted_ratio: predicted latency over the rival's; None where either is missing.
        start, exported_start: cost of the start of the network and of the exported file; None where
            the device cannot tell it.
        profile: how the operations were timed, in words; empty where they were not.
        operations: their latencies, in the order of the network.
        settings: the device's settings and software.
        versions: of the packages that converted and measured.
    """

    architecture: str
    device: str
    measured_ms: float
    predicted_ms: float
    error_percent: float
    provenance: str
    expected_error: float | None
    weights: str | None
    exported: str | None
    exported_ms: float | None
    rival: RivalCheck | None
    ratio: float | None
    predicted_ratio: float | None
    start: StartUp | None
    exported_start: StartUp | None
    profile: str
    operations: tuple[OperationTime, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data in the order of the file, `format` first."""
        return {
            "format": FORMAT,
            **asdict(self),
            "operations": [asdict(each) for each in self.operations],
        }

    def save(self, folder: Path) -> Path:
        """Write `check-<device>.yaml` into a run's folder and return its path."""
        path = folder / f"check-{self.device}.yaml"
        write_yaml(path, self.to_dict())
        return path


def check_network(
    table: LatencyTable,
    arch: Architecture,
    device: Device,
    weights: Path | None = None,
    exported: Path | None = None,
    progress: Progress = lambda *_: None,
    rival: Rival | None = None,
) -> RunCheck:
    """Measure `arch` as a whole and, where the device can, each of its operations in its place.

    Args:
        table: of the device.
        arch: the network.
        device: what measures.
        weights: a safetensors file with the state dict of `nas.build(arch)` (default: random ones).
        exported: the network as a file that the device runs (see `exported_file`), to be measured
            too.
        progress: is called for "networks" and for "operations".
        rival: a published member to measure by turns with `arch`. A failure of the rival is
            recorded, and the check of `arch` continues.

    Raises:
        InputError: when the table lacks rows or was measured with other settings, or the weights
            are those of another network.
        NasError: when the device cannot run the network.
        DeviceLost: when the device went away.
    """
    estimate = table.predict(arch)
    info = device.info()
    if estimate.missing:
        raise table.missing_rows(estimate.missing, arch.space)
    if table.path is not None and table.provenance != "estimated":
        check_settings(table.path / DEVICE_FILE, vars(table.device), info)
    operations = arch.operations()
    networks: dict[str, Chain | Path] = {
        FOUND: Chain.network(operations, weights_of(weights, operations) if weights else None)
    }
    if exported:
        networks[EXPORT] = exported
    if rival:
        networks[RIVAL] = Chain.network(rival.architecture.operations())
    turns = measure_by_turns(
        device,
        networks,
        {FOUND: f"network {arch.name or 'without a name'}", EXPORT: str(exported), RIVAL: ""},
        progress,
        optional=(RIVAL,),
        least=RIVAL_TURNS if rival else 1,
    )
    measured = turns.ms
    measured_ms = measured[FOUND]
    times = _operation_times(device, operations, progress)
    rival_check = None
    if rival:
        rival_check = _rival_check(table, rival, measured.get(RIVAL), turns.failures.get(RIVAL, ""))
    return RunCheck(
        architecture=arch.name,
        device=table.device.name,
        measured_ms=round(measured_ms, 6),
        predicted_ms=round(estimate.ms, 6),
        error_percent=_error_percent(estimate.ms, measured_ms),
        provenance=estimate.provenance,
        expected_error=estimate.expected_error,
        weights=str(weights) if weights else None,
        exported=str(exported) if exported else None,
        exported_ms=round(measured[EXPORT], 6) if exported else None,
        rival=rival_check,
        ratio=_ratio(measured_ms, rival_check.measured_ms if rival_check else None),
        predicted_ratio=_ratio(estimate.ms, rival_check.predicted_ms if rival_check else None),
        start=turns.starts[FOUND],
        exported_start=turns.starts.get(EXPORT),
        profile=device.profiled_by if times else "",
        operations=_beside(estimate, times),
        settings=settings_of(vars(info)),
        versions=versions() | info.tools,
        date=date.today().isoformat(),
    )


def _rival_check(
    table: LatencyTable, rival: Rival, measured_ms: float | None, failure: str
) -> RivalCheck:
    """Return the rival's predicted and measured latency side by side."""
    estimate = table.predict(rival.architecture)
    predicted_ms = None if estimate.missing else estimate.ms
    error = None
    if predicted_ms is not None and measured_ms is not None:
        error = _error_percent(predicted_ms, measured_ms)
    return RivalCheck(
        name=rival.architecture.name,
        reason=rival.reason,
        predicted_ms=None if predicted_ms is None else round(predicted_ms, 6),
        measured_ms=None if measured_ms is None else round(measured_ms, 6),
        error_percent=error,
        failure=failure,
    )


def _error_percent(predicted_ms: float, measured_ms: float) -> float:
    return round(100 * (predicted_ms / measured_ms - 1), 3)


def _ratio(ms: float, rival_ms: float | None) -> float | None:
    return round(ms / rival_ms, 4) if rival_ms else None


def weights_of(path: Path, operations: Sequence[Operation]) -> Weights:
    """Return a network's weights for a chain of its operations.

    The tensors are only verified; the worker that converts reads them.

    Raises:
        InputError: for a damaged file, or one without weights of this network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            keys = list(file.keys())
            check_digest(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is not a readable safetensors file ({error})") from None
    if metadata.get("format") != WEIGHTS_FORMAT:
        raise InputError(
            f"{path}: is not a network's weights (format '{WEIGHTS_FORMAT}' is missing in its"
            " header)"
        )
    # A key of the state dict begins with the name of its operation, as `stage2_block1.conv.weight`.
    there = {key.partition(".")[0] for key in keys}
    needed = {each.name for each in operations if each.params}
    if there != needed:
        odd = min(there ^ needed)
        raise InputError(
            f"{path}: holds the weights of another network ('{odd}' is"
            f" {'missing' if odd in needed else 'not an operation of this one'})"
        )
    digest = file_sha256(path)
    return Weights(str(path.absolute()), digest, tuple(each.name for each in operations))


def exported_file(run: Path, kind: str, precision: str = DEFAULT) -> Path | None:
    """Return the undamaged file that `nas export` wrote for devices of this kind, or None.

    Args:
        run: the run's folder.
        kind: of device.
        precision: that the device measures in; int8 has files of its own.
    """
    from nas.runs.exports import Record

    device_kind = KINDS.get(kind)
    if device_kind is None or not device_kind.measures_exports or not (run / "export").is_dir():
        return None
    record = Record(run / "export")
    target = device_kind.export_target
    entry = record.targets.get(f"{target}-int8" if precision == "int8" else target, {})
    path = record.folder / str(entry.get("file"))
    return path if path.is_file() and tree_sha256(path) == entry.get("sha256") else None


def _operation_times(
    device: Device, operations: Sequence[Operation], progress: Progress
) -> dict[str, float]:
    """Return latencies in ms by operation name, with the cost of a call as `intercept`.

    That cost is subtracted from the others. Empty where the device gives no times of operations,
    or cannot run one of them alone.
    """
    progress("operations", 0, len(operations))
    try:
        times = device.profile([EMPTY, *map(Chain.stack, operations)])
    except OperationFailed:
        return {}
    progress("operations", len(operations), len(operations))
    if times is None:
        return {}
    call_ms, *rest = times
    return {"intercept": call_ms} | {
        operation.name: max(ms - call_ms, 0.0)
        for operation, ms in zip(operations, rest, strict=True)
    }


def _beside(estimate: Estimate, times: Mapping[str, float]) -> tuple[OperationTime, ...]:
    """Return the prediction's bars with their measured times."""
    return tuple(
        OperationTime(
            bar.name, bar.kind, round(bar.ms, 6), round(times[bar.name], 6) if times else None
        )
        for bar in estimate.breakdown
    )


def settings_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings and the software of a device that a check records."""
    names = (
        "kind",
        "soc",
        "os",
        "runtime",
        "runtime_version",
        "compute_unit",
        "precision",
        "threads",
        "affinity",
    )
    return {name: info[name] for name in names}
