"""Measure a network file that need not be ours, beside one that is, for `nas check FILE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nas.convert.chain import Chain
from nas.devices.base import Device, StartUp
from nas.devices.kinds import KINDS
from nas.errors import InputError
from nas.files import check_regular, tree_sha256
from nas.latency.check.network import exported_file, settings_of, weights_of
from nas.latency.check.turns import measure_by_turns
from nas.latency.network_times import Progress
from nas.runs.exports import size
from nas.runs.resolve import find_source
from nas.versions import versions

FORMAT = "nas-file-check-1"
SUFFIXES = (".tflite", ".onnx", ".mlpackage")
"""Suffixes of network files that some device measures."""
TURNS = 3
"""Minimum number of turns of two networks; see `nas.latency.check.network.RIVAL_TURNS`."""
FILE = "file"
BESIDE = "beside"


@dataclass(frozen=True)
class Measured:
    """A measured network.

    Attributes:
        name: the file, or the network with the source of its weights.
        measured_ms: latency in ms.
        start: cost of its start; None where the device cannot tell it.
    """

    name: str
    measured_ms: float
    start: StartUp | None


@dataclass(frozen=True)
class FileCheck:
    """The latency of a network file, and that of another network measured by turns with it.

    Attributes:
        device: name of the device.
        file: the file.
        sha256, bytes: of the file.
        beside: the other network; None without one.
        ratio: latency of the file over that of the other network.
        settings: the device's settings and software.
        versions: of the packages that measured.
    """

    device: str
    file: Measured
    sha256: str
    bytes: int
    beside: Measured | None
    ratio: float | None
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, `format` first."""
        return {"format": FORMAT, **asdict(self)}


def is_network_file(text: str) -> bool:
    """Return whether an argument names a network file, by its suffix."""
    return Path(text).suffix.lower() in SUFFIXES


def check_exists(file: Path) -> None:
    """Raise InputError for a network file that is missing, or is none by its type.

    Opening a pipe never ends. A Core ML package is a folder, every other network is one file.
    """
    if not file.exists():
        raise InputError(f"{file}: does not exist. Fix: give the path of a network file")
    check_regular(file)
    package = file.suffix.lower() == ".mlpackage"
    if file.is_dir() != package:
        expected = "a folder" if package else "a file"
        raise InputError(f"{file}: is not {expected}. Fix: give the path of a network file")


def check_file(
    device: Device,
    file: Path,
    beside: str | None = None,
    progress: Progress = lambda *_: None,
) -> FileCheck:
    """Measure a network file, by turns with another network where one is named.

    Args:
        device: what measures.
        file: a .tflite, .onnx or .mlpackage file.
        beside: another file, or a run folder, an architecture's file or a published member. The
            file that `nas export` wrote for such a device is preferred to the bare network: it
            normalises its image as files of others do.
        progress: is called for "networks".

    Raises:
        InputError: for a file that does not exist, is damaged, or that the device does not run.
        NasError: when the device cannot run one of the networks.
        DeviceLost: when the device went away.
    """
    info = device.info()
    _check_suffix(file, info.kind, info.name)
    networks: dict[str, Chain | Path] = {FILE: file}
    names = {FILE: str(file)}
    if beside is not None:
        networks[BESIDE], names[BESIDE] = _other(beside, info.kind, info.name, info.precision)
    least = TURNS if beside is not None else 1
    turns = measure_by_turns(device, networks, names, progress, least=least)
    measured = {
        key: Measured(names[key], round(turns.ms[key], 6), turns.starts[key]) for key in networks
    }
    other = measured.get(BESIDE)
    return FileCheck(
        device=info.name,
        file=measured[FILE],
        sha256=tree_sha256(file),
        bytes=size(file),
        beside=other,
        ratio=round(turns.ms[FILE] / turns.ms[BESIDE], 4) if other else None,
        settings=settings_of(vars(info)),
        versions=versions() | info.tools,
        date=date.today().isoformat(),
    )


def _check_suffix(file: Path, kind: str, device: str) -> None:
    """Raise InputError for a file that is missing, damaged, or not for devices of this kind."""
    check_exists(file)
    suffix = file.suffix.lower()
    # A device of another package decides itself.
    expected = KINDS[kind].file_suffixes if kind in KINDS else SUFFIXES
    if suffix not in expected:
        runs = f"runs {' and '.join(expected)} files" if expected else "runs no files of others"
        named = {".tflite": "host", ".onnx": "host", ".mlpackage": "mac"}[suffix]
        raise InputError(
            f"{file}: does not run on {device}, which {runs} (got {suffix}). Fix: --device {named}"
        )
    if suffix == ".mlpackage":
        _refuse_images(file)
        return
    with file.open("rb") as opened:
        head = opened.read(8)
    # The identifier of a FlatBuffer stands behind its first offset.
    if suffix == ".tflite" and head[4:] != b"TFL3":
        raise InputError(f"{file}: is not a .tflite file (its identifier TFL3 is missing)")


def _refuse_images(package: Path) -> None:
    """Raise InputError for an ML program with an image as input."""
    import coremltools

    try:
        inputs = coremltools.utils.load_spec(str(package)).description.input
    except Exception as error:  # protobuf's own error for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{package}: is not an ML program ({reason})") from None
    for each in inputs:
        if each.type.WhichOneof("Type") == "imageType":
            raise InputError(
                f"{package}: input '{each.name}' is an image, which coremltools' benchmark does not"
                " feed. Fix: a package with a multi-array as input, or Xcode's performance report"
            )


def _other(beside: str, kind: str, device: str, precision: str) -> tuple[Chain | Path, str]:
    """Return the network to measure beside a file, and what to call it."""
    if is_network_file(beside):
        _check_suffix(Path(beside), kind, device)
        return Path(beside), beside
    source = find_source(beside)
    exported = None
    if source.run_folder is not None:
        exported = exported_file(source.run_folder, kind, precision)
    if exported is not None:
        return exported, str(exported)
    operations = source.architecture.operations()
    weights = weights_of(source.weights, operations) if source.weights else None
    name = source.architecture.name or beside
    return (
        Chain.network(operations, weights),
        f"{name} ({'its own' if weights else 'random'} weights)",
    )
