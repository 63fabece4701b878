"""Whole networks that calibrate a table and others that check it, and their file `networks.csv`.

`profile`, `check` and bundles choose the same networks here.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

from nas.blocks import parse_head
from nas.devices.base import StartUp
from nas.devices.info import DeviceInfo
from nas.errors import InputError
from nas.files import read_text, write_text
from nas.latency.rows import Key
from nas.space import Architecture, Space, space_names
from nas.space.sizes import between

NETWORKS_FILE = "networks.csv"
Progress = Callable[[str, int, int], None]
"""Callback that gets the name of the step, how many are done, and how many there are."""
Role = Literal["calibration", "check"]
CALIBRATION_NETWORKS = 8
"""Number of networks that calibrate a table for a space."""
_CANDIDATES = 100
"""Number of seeds, from 0, whose members the calibration chooses from; a check uses later seeds."""


class Line(NamedTuple):
    """Coefficients that turn sums of rows into latencies, as in `nas.devices.info.Calibration`."""

    scale: float
    intercept_ms: float = 0.0
    weights_ms: float = 0.0
    weights_from: float = 0.0

    def ms(self, sum_ms: float, params: int) -> float:
        """Return the predicted latency in ms of a network with this sum of rows in ms."""
        return (
            self.intercept_ms
            + self.scale * sum_ms
            + self.weights_ms * (params / 1e6 - self.weights_from)
        )


@dataclass(frozen=True)
class NetworkTime:
    """A whole network with its measured and its predicted latency, a line of `networks.csv`.

    Attributes:
        role: calibration or check.
        space: as `space_id` returns it.
        resolution: as `resolution_id` returns it.
        network: name of the member.
        measured_ms: measured latency.
        sum_ms: sum of its operations' rows, before calibration.
        predicted_ms: predicted latency, after calibration.
        error_percent: of the prediction; positive where it is too high.
        date: of the measurement.
        params: learned parameters; 0 where an old file has none.
        load_ms, first_ms, memory_mb: as in `nas.devices.base.StartUp`; 0 where not known.
    """

    role: Role
    space: str
    resolution: str
    network: str
    measured_ms: float
    sum_ms: float = 0.0
    predicted_ms: float = 0.0
    error_percent: float = 0.0
    date: str = ""
    params: int = 0
    load_ms: float = 0.0
    first_ms: float = 0.0
    memory_mb: float = 0.0

    def started(self, start: StartUp | None) -> NetworkTime:
        """Return the network with the cost of its start, where that is known."""
        if start is None:
            return self
        return replace(
            self,
            load_ms=round(start.load_ms, 3),
            first_ms=round(start.first_ms, 3),
            memory_mb=round(start.memory_mb or 0.0, 2),
        )

    def predicted(self, line: Line) -> NetworkTime:
        """Return the network with the prediction of a line and its error."""
        ms = line.ms(self.sum_ms, self.params)
        return replace(
            self,
            predicted_ms=round(ms, 5),
            error_percent=round(100 * (ms / self.measured_ms - 1), 3),
        )


def calibration_members(space: Space, count: int = CALIBRATION_NETWORKS) -> list[Architecture]:
    """Return random members that spread evenly over the range of MACs, the same in every call."""
    # Members that are the same network to a device count once. Ranks are taken at equal distances,
    # from the smallest to the largest of the candidates.
    members = {_keys(member): member for member in map(space.sample, range(_CANDIDATES))}
    ranked = sorted(members.values(), key=lambda member: member.macs)
    count = min(count, len(ranked))
    return [ranked[(len(ranked) - 1) * i // max(count - 1, 1)] for i in range(count)]


def check_members(space: Space, count: int, seed: int) -> list[Architecture]:
    """Return up to `count` distinct random members, none of which the calibration uses.

    There are fewer in a space that has hardly any others.
    """
    used = {_keys(member) for member in calibration_members(space)}
    members: list[Architecture] = []
    # Each check has a million seeds of its own, beyond those of the calibration's candidates.
    for number in range(20 * count):
        member = space.sample((seed + 1) * 1_000_000 + number)
        if len(members) < count and _keys(member) not in used:
            used.add(_keys(member))
            members.append(member)
    return members


def _keys(member: Architecture) -> tuple[Key, ...]:
    """Return the operations' keys, equal for members that are the same network to a device.

    Such members can differ in the names of their blocks: a dropped block renames those after it.
    """
    return tuple(operation.key for operation in member.operations())


def space_id(space: Space) -> str:
    """Return what `--space` takes for this space: its name if that is known, else its file."""
    from nas.space import load_space

    known = space.name in space_names() and load_space(space.name).path == space.path
    return space.name if known or not space.path else space.path


def profile_arguments(space: Space) -> str:
    """Return what follows `nas profile --space` for this space: name or file, options of sizes."""
    from nas.space import load_space

    name = space_id(space)
    return shlex.join([name, *between(load_space(name), space).options()])


def resolution_id(space: Space) -> str:
    """Return input size and classes, as 224x224/1000, or size and head for a head on a pyramid."""
    height, width = space.resolution
    head = space.heads[0]
    return f"{height}x{width}/" + (
        f"{head.kind}({head})" if head.layout == "pyramid" else str(space.classes)
    )


def at_resolution_id(space: Space, text: str) -> Space:
    """Return the space at the sizes that `resolution_id` wrote; the inverse of that function."""
    size, _, task = text.partition("/")
    height, width = map(int, size.split("x"))
    kind, _, hyperparameters = task.removesuffix(")").partition("(")
    if kind.isdecimal():
        return space.at((height, width), int(kind))
    return space.with_head(parse_head(kind, hyperparameters)).at((height, width))


def profiled_spaces(device: DeviceInfo) -> list[tuple[str, str]]:
    """Return the spaces that a table was profiled for with their `resolution_id`, latest last."""
    return [(entry.space, entry.resolution) for entry in device.spaces]


def read_networks(folder: Path) -> list[NetworkTime]:
    """Return the networks in a table's folder; empty without such a file.

    Raises:
        InputError: when the file is unreadable.
    """
    path = folder / NETWORKS_FILE
    if not path.is_file():
        return []
    # Annotations are text in this file. Columns that an old file lacks have defaults.
    types = {
        field.name: {"float": float, "int": int}.get(str(field.type), str)
        for field in fields(NetworkTime)
    }
    try:
        return [
            NetworkTime(**{name: types[name](value) for name, value in record.items()})
            for record in csv.DictReader(io.StringIO(read_text(path)))
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Fix: remove it, then run nas profile again"
        ) from None


def write_networks(folder: Path, networks: Iterable[NetworkTime]) -> None:
    """Write the networks into a table's folder."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [field.name for field in fields(NetworkTime)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(asdict(network) for network in networks)
    write_text(folder / NETWORKS_FILE, text.getvalue())
