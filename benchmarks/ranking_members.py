"""The members of the ranking benchmark, and the journals of what was measured of them.

`benchmarks/ranking.py` calls it. A folder keeps:

    members.csv       a row per member: its architecture, and what is known of it so far
    protocol.json     images and recipe of the trainings; others are refused
    trainings.jsonl   a line per training: member, seed, held-out accuracy
    scores.jsonl      a line per score of a member: inherited accuracies, zero-cost proxies
    latencies.jsonl   a line per measurement: turn, member, milliseconds
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.csv_files import Writer, as_written
from nas.errors import InputError
from nas.files import replacing
from nas.journals import append_text, read_entries
from nas.space import Architecture, Space, load_architecture, load_space

CANDIDATES = 400
"""Random members of a space among which those of the benchmark are chosen."""
STATIC = ("family", "member", "widths", "depths", "macs", "params")
MEMBERS, PROTOCOL, TRAININGS, SCORES, LATENCIES = (
    "members.csv",
    "protocol.json",
    "trainings.jsonl",
    "scores.jsonl",
    "latencies.jsonl",
)


@dataclass(frozen=True)
class Member:
    """A network of the benchmark.

    Attributes:
        family: name of its space without `_enumerable`.
        architecture: the network, at its place in the space.
    """

    family: str
    architecture: Architecture

    @property
    def name(self) -> str:
        return self.architecture.name

    def row(self) -> dict[str, Any]:
        """Return the columns that need no measurement."""
        arch = self.architecture
        return {
            "family": self.family,
            "member": self.name,
            "widths": "-".join(map(str, arch.widths)),
            "depths": "-".join(map(str, arch.depths)),
            "macs": arch.macs,
            "params": arch.params,
        }


def family_of(space: Space) -> str:
    return space.name.removesuffix("_enumerable")


def drawn(space: Space, count: int) -> list[Architecture]:
    """Return distinct random members, evenly spread over the ranks of MACs."""
    # Members of the same operations are the same network.
    known = {member.operations(): member for member in map(space.sample, range(CANDIDATES))}
    ranked = sorted(known.values(), key=lambda member: member.macs)
    # Evenly spaced by rank in MACs, with both ends.
    return [ranked[(len(ranked) - 1) * number // (count - 1)] for number in range(count)]


def evenly(members: Sequence[Member]) -> list[Member]:
    """Return the members in an order whose every beginning is spread over theirs.

    Both ends come first, then always the one that is farthest from those before it. So a run that
    is stopped early has compared networks of the whole range, and a longer one goes on with it.
    """
    ordered = [0, len(members) - 1][: len(members)]
    while len(ordered) < len(members):
        distances = np.abs(np.subtract.outer(range(len(members)), ordered)).min(axis=1)
        ordered.append(int(distances.argmax()))
    return [members[place] for place in ordered]


def begin(keep: Path, spaces: Sequence[str], count: int) -> list[Member]:
    """Return the folder's members; draw `count` from each space where it has none.

    The order alternates between the families, so that a stopped run has equally many of each.
    """
    keep.mkdir(parents=True, exist_ok=True)
    if (keep / MEMBERS).exists():
        return read_members(keep / MEMBERS)
    loaded = [load_space(space) for space in spaces]
    columns = [[Member(family_of(space), arch) for arch in drawn(space, count)] for space in loaded]
    members = [member for row in zip(*columns, strict=True) for member in row]
    write_members(keep / MEMBERS, members, {})
    return members


def read_members(path: Path) -> list[Member]:
    """Return the members of a file.

    Raises:
        InputError: for a file without the columns, or for an architecture that cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column in ("family", "architecture"):
        if not rows or column not in rows[0]:
            raise InputError(
                f"{path}: column '{column}' is missing. Fix: a members.csv of benchmarks/ranking.py"
            )
    with tempfile.TemporaryDirectory() as folder:
        # YAML reads JSON, so the reader of architecture files checks the cells too.
        file = Path(folder) / "architecture.yaml"
        members = []
        for row in rows:
            file.write_text(as_written(row["architecture"]), encoding="utf-8")
            members.append(Member(as_written(row["family"]), load_architecture(file)))
    return members


def write_members(
    path: Path, members: Sequence[Member], columns: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the members with further columns.

    Args:
        path: of the CSV.
        members: in the order of rows.
        columns: by column and member; a member that lacks a value gets an empty cell.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row([*STATIC, *columns, "architecture"])
        for member in members:
            values = [values.get(member.name, "") for values in columns.values()]
            # The architecture is last, because it is long.
            text = json.dumps(member.architecture.to_dict(), separators=(",", ":"))
            writer.row([*member.row().values(), *values, text])


def keep_protocol(keep: Path, protocol: Mapping[str, Any]) -> None:
    """Write the protocol, or check that the folder's trainings are of the same one.

    Raises:
        InputError: for another protocol, whose accuracies could not be compared.
    """
    path = keep / PROTOCOL
    if not path.exists():
        with replacing(path) as part:
            part.write_text(json.dumps(protocol, indent=2) + "\n", encoding="utf-8")
        return
    recorded = json.loads(path.read_text(encoding="utf-8"))
    for key in protocol:
        if recorded.get(key) != protocol[key]:
            raise InputError(
                f"{path}: {key}: is another protocol (got {protocol[key]}, expected"
                f" {recorded.get(key)}). Fix: the options of the first run, or another --keep"
            )


def protocol_of(keep: Path) -> dict[str, Any]:
    """Return the folder's protocol.

    Raises:
        InputError: where there is none.
    """
    path = keep / PROTOCOL
    if not path.exists():
        raise InputError(
            f"{path}: is missing. Fix: python benchmarks/ranking.py train --keep {keep} --data DATA"
        )
    protocol: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return protocol


def add(path: Path, **entry: Any) -> None:
    """Append a line to a journal."""
    append_text(path, json.dumps(entry) + "\n", "measured")


def accuracies(keep: Path) -> dict[str, dict[int, float]]:
    """Return the held-out accuracies in percent by member and seed."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for entry in read_entries(keep / TRAININGS):
        values[entry["member"]][entry["seed"]] = entry["accuracy"]
    return dict(values)


def scores(keep: Path) -> dict[str, dict[str, float]]:
    """Return the recorded scores by score and member."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for entry in read_entries(keep / SCORES):
        values[entry["score"]][entry["member"]] = entry["value"]
    return dict(values)


def latencies(keep: Path) -> dict[str, float]:
    """Return the latency of each member in ms: its share of the turns' medians, times their median.

    A machine that slows down does so for all networks of a turn. So each latency is divided by the
    median of its turn, and the medians of these ratios are compared.
    """
    turns: dict[int, dict[str, float]] = defaultdict(dict)
    for entry in read_entries(keep / LATENCIES):
        turns[entry["turn"]][entry["member"]] = entry["ms"]
    most = max((len(turn) for turn in turns.values()), default=0)
    # A stopped run leaves an incomplete turn, whose median is of other networks.
    whole = [turn for turn in turns.values() if len(turn) == most]
    medians = [float(np.median(list(turn.values()))) for turn in whole]
    ratios: dict[str, list[float]] = defaultdict(list)
    for turn, median in zip(whole, medians, strict=True):
        for member, ms in turn.items():
            ratios[member].append(ms / median)
    usual = float(np.median(medians)) if medians else 0.0
    return {member: usual * float(np.median(each)) for member, each in ratios.items()}


def by_family(members: Iterable[Member]) -> dict[str, list[Member]]:
    families: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        families[member.family].append(member)
    return dict(families)
