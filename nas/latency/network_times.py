"""Whole networks: measured to calibrate a table, and others to check it. `networks.csv` beside the
table has them."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

from nas.blocks import parse_head
from nas.devices.info import DeviceInfo
from nas.errors import InputError
from nas.files import read_text, write_text
from nas.latency.rows import Key
from nas.space import Architecture, Space, space_names

NETWORKS_FILE = "networks.csv"
Progress = Callable[[str, int, int], None]
"""Told what is being done, how many are done, and how many there are."""
Role = Literal["calibration", "check"]
CALIBRATION_NETWORKS = 8
_CANDIDATES = 100
"""Calibration networks are chosen among the members of the first seeds; a check draws from later
ones."""


class Line(NamedTuple):
    """What carries sums of rows over to whole networks; as in `nas.devices.info.Calibration`."""

    scale: float
    intercept_ms: float = 0.0
    weights_ms: float = 0.0
    weights_from: float = 0.0

    def ms(self, sum_ms: float, params: int) -> float:
        return (
            self.intercept_ms
            + self.scale * sum_ms
            + self.weights_ms * (params / 1e6 - self.weights_from)
        )


@dataclass(frozen=True)
class NetworkTime:
    """A whole network as measured, and as predicted. Times in ms.

    Attributes:
        sum_ms: the sum of its operations' rows, before calibration.
        params: learned parameters; 0 where an old file does not say.
        predicted_ms: after calibration.
        error_percent: of the prediction; positive where it is too high.
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

    def predicted(self, line: Line) -> NetworkTime:
        ms = line.ms(self.sum_ms, self.params)
        return replace(
            self,
            predicted_ms=round(ms, 5),
            error_percent=round(100 * (ms / self.measured_ms - 1), 3),
        )


def calibration_members(space: Space, count: int = CALIBRATION_NETWORKS) -> list[Architecture]:
    """Return random members that spread evenly over the range of MACs; the same for every call."""
    members = {_keys(member): member for member in map(space.sample, range(_CANDIDATES))}
    ranked = sorted(members.values(), key=lambda member: member.macs)
    count = min(count, len(ranked))
    return [ranked[(len(ranked) - 1) * i // max(count - 1, 1)] for i in range(count)]


def check_members(space: Space, count: int, seed: int) -> list[Architecture]:
    """Up to `count` distinct random members, none of which a calibration uses."""
    found = {_keys(member) for member in calibration_members(space)}
    members: list[Architecture] = []
    for number in range(20 * count):
        member = space.sample((seed + 1) * 1_000_000 + number)
        if len(members) < count and _keys(member) not in found:
            found.add(_keys(member))
            members.append(member)
    return members


def _keys(member: Architecture) -> tuple[Key, ...]:
    """Return what makes two members one network to a device: blocks that are gone leave other names
    to those that stay."""
    return tuple(operation.key for operation in member.operations())


def space_id(space: Space) -> str:
    """Return what `--space` takes to find this space again: its name if it is a known one, else its
    file."""
    from nas.space import load_space

    known = space.name in space_names() and load_space(space.name).path == space.path
    return space.name if known or not space.path else space.path


def profile_arguments(space: Space) -> str:
    """Return what follows `nas profile --space` for this space: its name or file, and the options
    of its sizes."""
    from nas.space import load_space

    whole = load_space(space_id(space))
    arguments = [space_id(space)]
    if space.resolution != whole.resolution:
        height, width = space.resolution
        arguments += ["--resolution", str(height) if height == width else f"{height}x{width}"]
    if space.heads[0].layout == "pyramid" and whole.heads[0].layout != "pyramid":
        arguments += ["--segment", str(space.classes)]
    elif space.classes != whole.classes:
        arguments += ["--classes", str(space.classes)]
    return shlex.join(arguments)


def resolution_id(space: Space) -> str:
    """Return input size and classes, as in 224x224/1000; with a head on the pyramid, that head in
    full instead of classes."""
    height, width = space.resolution
    head = space.heads[0]
    return f"{height}x{width}/" + (
        f"{head.kind}({head})" if head.layout == "pyramid" else str(space.classes)
    )


def at_resolution_id(space: Space, text: str) -> Space:
    """Return the space at the input size and with the classes or the head that `resolution_id`
    wrote."""
    size, _, task = text.partition("/")
    height, width = map(int, size.split("x"))
    kind, _, hyperparameters = task.removesuffix(")").partition("(")
    if kind.isdecimal():
        return space.at((height, width), int(kind))
    return space.with_head(parse_head(kind, hyperparameters)).at((height, width))


def profiled_spaces(device: DeviceInfo) -> list[tuple[str, str]]:
    """Return the spaces that a table was profiled for, each with its `resolution_id`; the last one
    last."""
    return [(entry.space, entry.resolution) for entry in device.spaces]


def read_networks(folder: Path) -> list[NetworkTime]:
    """Return the networks that stand beside a table; none where there is no such file."""
    path = folder / NETWORKS_FILE
    if not path.is_file():
        return []
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
            f"{path}: unreadable ({error}); remove it, and run nas profile again"
        ) from None


def write_networks(folder: Path, networks: Iterable[NetworkTime]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [field.name for field in fields(NetworkTime)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(asdict(network) for network in networks)
    write_text(folder / NETWORKS_FILE, text.getvalue())
