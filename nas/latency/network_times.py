"""Whole networks that calibrate a table and others that check it, and their file `networks.csv`.

`profile`, `check` and bundles choose the same networks here.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from nas.blocks import parse_head
from nas.csv_files import Writer, count_in, strict_records
from nas.devices.base import StartUp
from nas.devices.info import DeviceInfo
from nas.errors import InputError
from nas.files import MOST_MS, number_in, read_text, write_text
from nas.latency.rows import Key
from nas.space import Architecture, Space, space_names
from nas.space.sizes import between, sides

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


def at_resolution_id(space: Space, text: str, where: str) -> Space:
    """Return the space at the sizes that `resolution_id` wrote; the inverse of that function.

    Args:
        space: as it is loaded.
        text: the sizes.
        where: file and key that they are from, for the message.

    Raises:
        InputError: for other text, and for sizes that the space cannot have.
    """
    size, _, task = text.partition("/")
    kind, _, hyperparameters = task.removesuffix(")").partition("(")
    try:
        if kind.isdecimal():
            return space.at(sides(size), int(kind))
        return space.with_head(parse_head(kind, hyperparameters)).at(sides(size))
    except ValueError as error:
        # Without the list of known blocks that may follow.
        reason = str(error).partition(";")[0]
        raise InputError(
            f"{where}: is not a size of {space.name} (got '{text[:40]}', expected as"
            f" {resolution_id(space)}): {reason}"
        ) from None


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
    return [
        _network(f"{path}:{number}", record)
        for number, record in strict_records(path, read_text(path), ("role", "measured_ms"))
    ]


def network_from(data: Any) -> NetworkTime:
    """Return the network in an entry of a journal, with the checks of a line of the file.

    Raises:
        InputError: naming the key.
    """
    if not isinstance(data, dict) or not all(
        type(value) in (str, int, float) for value in data.values()
    ):
        raise InputError("network: is not a mapping of names and numbers")
    # `repr` keeps every digit.
    return _network(
        "network",
        {key: value if type(value) is str else repr(value) for key, value in data.items()},
    )


def _network(where: str, record: Mapping[str, str]) -> NetworkTime:
    """Return the network in a line. Columns that an old file lacks have defaults."""
    values: dict[str, Any] = {}
    # Annotations are text in this file.
    kinds = {field.name: str(field.type) for field in fields(NetworkTime)}
    for name, text in record.items():
        if name not in kinds:
            raise InputError(f"{where}: unknown column '{name}' (expected {', '.join(kinds)})")
        if kinds[name] == "int":
            values[name] = count_in(where, name, text)
        elif kinds[name] == "float":
            values[name] = number_in(where, name, text)
            if values[name] < 0 and name not in ("error_percent", "predicted_ms"):
                raise InputError(f"{where}: {name}: {text} is negative, expected at least 0")
            if name == "measured_ms" and not 0 < values[name] <= MOST_MS:
                raise InputError(
                    f"{where}: {name}: is {text}, expected ms above 0, at most {MOST_MS:.0f}"
                )
        else:
            values[name] = text
    if missing := {"role", "space", "resolution", "network", "measured_ms"} - values.keys():
        raise InputError(f"{where}: {min(missing)}: is missing")
    if values["role"] not in get_args(Role):
        raise InputError(
            f"{where}: role: '{values['role']}' is unknown (expected one of"
            f" {', '.join(get_args(Role))})"
        )
    return NetworkTime(**values)


def write_networks(folder: Path, networks: Iterable[NetworkTime]) -> None:
    """Write the networks into a table's folder."""
    text = io.StringIO()
    writer = Writer(text)
    writer.row(field.name for field in fields(NetworkTime))
    writer.rows(asdict(network).values() for network in networks)
    write_text(folder / NETWORKS_FILE, text.getvalue())
