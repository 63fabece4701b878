"""Measure a searched network on its device and compare it with the table, for `nas check RUN`.

The comparison goes down to single operations. The published member that one would ship otherwise
(`Rival`) is measured by turns with the network: a search that was led by wrong predictions must
show against the rival's measured latency, not its predicted one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nas.blocks import Operation
from nas.convert.chain import Chain, OperationFailed, Weights
from nas.devices.base import Device
from nas.devices.kinds import KINDS
from nas.errors import InputError, NasError
from nas.files import file_sha256, remove, tree_sha256, write_yaml
from nas.latency.network_times import Progress
from nas.latency.profile.journal import check_settings
from nas.latency.profile.operation_timing import EMPTY, settled
from nas.latency.table import DEVICE_FILE, Estimate, LatencyTable
from nas.runs.schema import WEIGHTS_FORMAT
from nas.space import Architecture
from nas.versions import versions

FORMAT = "nas-run-check-1"
APART_S = 2.0
"""Pause in seconds between measurements of a network on a device that repeats.

Disturbances last for tens of seconds.
"""
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
    measured, failure = _networks_ms(device, networks, arch.name, progress)
    measured_ms = measured[FOUND]
    times = _operation_times(device, operations, progress)
    rival_check = _rival_check(table, rival, measured.get(RIVAL), failure) if rival else None
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
        profile=device.profiled_by if times else "",
        operations=_beside(estimate, times),
        settings=_settings(vars(info)),
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

    Only the file's header is read; the worker that converts reads the tensors.

    Raises:
        InputError: for a damaged file, or one without weights of this network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            keys = list(file.keys())
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


def exported_file(run: Path, kind: str) -> Path | None:
    """Return the undamaged file that `nas export` wrote for devices of this kind, or None."""
    from nas.runs.exports import Record

    device_kind = KINDS.get(kind)
    if device_kind is None or not device_kind.measures_exports or not (run / "export").is_dir():
        return None
    record = Record(run / "export")
    entry = record.targets.get(device_kind.export_target, {})
    path = record.folder / str(entry.get("file"))
    return path if path.is_file() and tree_sha256(path) == entry.get("sha256") else None


def _networks_ms(
    device: Device, networks: Mapping[str, Chain | Path], name: str, progress: Progress
) -> tuple[dict[str, float], str]:
    """Measure networks by turns, until the times of all of them can be trusted.

    Drift of the device then affects all of them alike.

    Args:
        networks: a file, or a chain to convert, by FOUND, EXPORT or RIVAL.
        name: of the network, for messages.

    Returns:
        Latencies in ms by key, and why the rival has none (empty where it has one).

    Raises:
        NasError: when the device cannot run a network other than the rival.
    """
    files: dict[str, Path] = {}
    taken: dict[str, list[float]] = {}
    failure = ""
    least = RIVAL_TURNS if RIVAL in networks else 1

    def waiting() -> list[str]:
        """Return the networks that need another turn; a rival that failed has left `files`."""
        return [
            key
            for key in files
            if len(taken[key]) < least or not settled(taken[key], device.repeats)
        ]

    progress("networks", 0, len(networks))
    for key, network in networks.items():
        try:
            files[key] = device.prepare(network).result() if isinstance(network, Chain) else network
        except OperationFailed as error:
            failure = _rival_failure(key, name, error)
        else:
            taken[key] = []
    while waiting():
        if taken[FOUND] and device.repeats > 1:
            time.sleep(APART_S)
        for key in list(files):
            try:
                taken[key].append(device.measure(files[key]).median_ms)
            except OperationFailed as error:
                failure = _rival_failure(key, name, error)
                remove(files.pop(key))
        progress("networks", len(files) - len(waiting()), len(networks))
    for key, file in files.items():
        if file is not networks[key]:
            remove(file)  # whole networks are large and are not measured again
    progress("networks", len(networks), len(networks))
    # Other load makes runs slower, never faster: the lowest time of a device that repeats counts,
    # as in its table. The rows of another device are of one measurement each, so the median is
    # comparable to them.
    best = min if device.repeats > 1 else statistics.median
    return {key: best(taken[key]) for key in files}, failure


def _rival_failure(key: str, name: str, error: OperationFailed) -> str:
    """Return why the rival does not run; raise NasError for any other network."""
    if key != RIVAL:
        raise NasError(
            f"network {name or 'without a name'} could not be measured: {error}"
        ) from error
    return str(error)


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


def _settings(info: Mapping[str, Any]) -> dict[str, Any]:
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
