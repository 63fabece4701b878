"""What a network was exported to: `export/export.yaml` of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from nas.files import YamlFile
from nas.runs.schema import Part
from nas.validation import validated


class _Differences(Part):
    images: int
    relative: float
    top1_agreement: float


class _Accuracy(Part):
    images: int
    before: float
    after: float


class _Target(Part):
    file: str
    bytes: int
    note: str = ""
    differences: dict[str, _Differences] = Field(default_factory=dict)
    accuracy: _Accuracy | None = None


class _Weights(Part):
    provenance: str


class _ExportFile(Part):
    """What `nas export` writes."""

    format: Literal["nas-export-1"]
    command: str
    weights: _Weights
    targets: dict[str, _Target]


@dataclass(frozen=True)
class Export:
    """One exported file. `facts` are what was found when it was compared with the network, in words."""

    target: str
    file: str
    bytes: int
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Exports:
    """The exported files of a run, what their weights are, and the last command that made some."""

    files: tuple[Export, ...]
    weights: str
    command: str


def read_exports(path: Path) -> Exports | None:
    """The finished exports of a run; None where there are none.

    Raises:
        InputError: for a damaged file, naming line, key and reason.
    """
    if not path.is_file():
        return None
    file = YamlFile(path)
    found = validated(file, _ExportFile, file.data)
    files = tuple(Export(name, t.file, t.bytes, tuple(_facts(t))) for name, t in found.targets.items())
    return Exports(files, found.weights.provenance, found.command) if files else None


def _facts(target: _Target) -> Iterator[str]:
    for kind, apart in target.differences.items():
        yield (f"on {apart.images} {kind} images its outputs are off by {apart.relative:.2g} of their deviation, the "
               f"answer is the same on {apart.top1_agreement:.4g} %")  # fmt: skip
    if target.accuracy:
        yield (f"accuracy {target.accuracy.after:.2f} %, the network's {target.accuracy.before:.2f} %, on "
               f"{target.accuracy.images} images")  # fmt: skip
    if target.note:
        yield target.note
