"""Read one phone's published latencies and the layers of their networks, for `run`."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal, get_args

from nas.blocks import Layer, parse_head
from nas.errors import InputError
from nas.files import read_text
from nas.latency.cost_model import demand
from nas.latency.estimate.fit import Observation
from nas.latency.estimate.layer_lists import layer_list
from nas.space import Architecture, published_member

PARTS = ("patch_embedding", "attention", "linear_proj_mlp", "reshape", "norm")
"""Parts of a breakdown that are fitted; activations and the rest (with the call) have no layers."""


Role = Literal["fit", "held_out", "check", "other"]
"""Role of a figure: fitted; of a family that no fit of this phone sees, for its error; of a
segmentation network, for the error at dense sizes; not used, with a reason."""
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Network:
    """A published network and the median of its published latencies.

    Attributes:
        model: name of the network.
        resolution: side of the input in pixels.
        family: of the network.
        ms: median of its figures.
        seen: observations of the whole network and, where known, of its parts.
    """

    model: str
    resolution: int
    family: str
    ms: float
    seen: tuple[Observation, ...]

    @property
    def name(self) -> str:
        return self.model if self.resolution == 224 else f"{self.model}@{self.resolution}"


@dataclass(frozen=True)
class Dense:
    """A published segmentation network and its latency in ms, which checks a fit at dense sizes."""

    name: str
    arch: Architecture
    ms: float


def dense_networks(folder: Path) -> list[Dense]:
    """Return the networks whose role is `check`, which no fit has seen.

    They are members of a space at a size and with a head of their own. The column `head` has the
    head's hyperparameters, as a table's column `hyperparameters` does.

    Raises:
        InputError: naming file, line, column and reason.
    """
    path = folder / "published.csv"
    networks = []
    for line, row in _read(path):
        if row["role"] != "check":
            continue
        arch = published_member(row["model"])
        if arch is None:
            raise InputError(
                f"{path}:{line}: model: '{row['model']}' is not a published member of a shipped"
                " space"
            )
        height, _, width = row["resolution"].partition("x")
        if not (height.isdecimal() and (width or height).isdecimal()):
            raise InputError(
                f"{path}:{line}: resolution: '{row['resolution']}' is not a side or HEIGHTxWIDTH"
            )
        try:
            arch = arch.at((int(height), int(width or height))).with_head(
                parse_head("fpn_head", row["head"])
            )
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}") from None
        name = f"{row['model']}@{row['resolution']}"
        networks.append(Dense(name, arch, _number(path, line, row, "latency_ms")))
    return networks


def published_networks(folder: Path, role: Role = "fit") -> list[Network]:
    """Return every classifier with a figure of this role, in the order of the file."""
    figures: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for model, resolution, family, ms in _figures(folder / "published.csv", role):
        figures[model, resolution, family].append(ms)
    breakdown = dict(_breakdowns(folder / "breakdown.csv"))
    networks = []
    for (model, resolution, family), values in figures.items():
        # One source that measured otherwise does not move the median far.
        ms = median(values)
        whole = Observation(model, family, demand(layers_of(model, resolution), calls=1), ms, ms)
        # Breakdowns are of the networks at 224 pixels.
        parts = _parts(whole, breakdown.get(model, {})) if resolution == 224 else ()
        networks.append(Network(model, resolution, family, ms, (whole, *parts)))
    return networks


def _figures(path: Path, role: Role) -> Iterator[tuple[str, int, str, float]]:
    """Yield model, resolution, family and ms of each figure of this role."""
    for line, row in _read(path):
        if row["role"] not in ROLES:
            raise InputError(
                f"{path}:{line}: role: is unknown (got '{row['role']}', expected one of"
                f" {', '.join(ROLES)})"
            )
        if row["role"] == role:
            ms = _number(path, line, row, "latency_ms")
            yield row["model"], int(_number(path, line, row, "resolution")), row["family"], ms


def _breakdowns(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each model with the shares of the parts in its latency."""
    for line, row in _read(path) if path.exists() else ():
        whole = _number(path, line, row, "sum_ms")
        yield row["model"], {part: _number(path, line, row, f"{part}_ms") / whole for part in PARTS}


def _read(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    for row in reader:
        yield reader.line_num, defaultdict(str, row)


def _number(path: Path, line: int, row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{path}:{line}: {column}: '{row[column]}' is not a positive number")
    return value


def layers_of(model: str, resolution: int) -> tuple[Layer, ...]:
    """Return the layers of a published network.

    Backbones of dense prediction keep their classifiers, which take less than 1 % of them.

    Raises:
        InputError: when its layers are not recorded.
    """
    arch = published_member(model)
    if arch:
        return tuple(
            la
            for op in arch.at(resolution).operations()
            for la in op.spec.deployed_layers(op.input)
        )
    return layer_list(model, resolution)


def _parts(whole: Observation, shares: dict[str, float]) -> list[Observation]:
    """Return the breakdown of a network as observations."""
    # Shares of the breakdown, times the latency that is fitted: the breakdown's own total was
    # measured otherwise and need not agree with it.
    arch = published_member(whole.model)
    if not shares or arch is None:
        return []
    layers: dict[str, list[Layer]] = defaultdict(list)
    for operation in arch.operations():
        for layer in operation.spec.deployed_layers(operation.input):
            layers[operation.spec.breakdown or _part(layer)].append(layer)
    return [
        replace(whole, demand=demand(layers[part]), ms=share * whole.ms)
        for part, share in shares.items()
    ]


def _part(layer: Layer) -> str:
    """Return a layer's part of a breakdown, where its block does not name one."""
    if layer.kind == "norm":
        return "norm"
    # A breakdown's "reshape" is the change of layout between blocks, which names its part itself
    # (`Flatten.breakdown`). A reshape within a block belongs to its attention.
    if layer.kind in ("matmul", "softmax", "reshape"):
        return "attention"
    return "linear_proj_mlp" if layer.kind in ("conv", "linear") else "others"
