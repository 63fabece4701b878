"""What members are worth, judged one by one instead of by scores that add up: each once, and kept on disk.

evaluations.yaml   what judged: the supernet, the images
evaluations.csv    a row a member, written as soon as it is known, so that a search that was killed asks for none twice
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nas.errors import InputError, NasError
from nas.files import YamlFile, write_yaml
from nas.space import Architecture

FORMAT = "nas-evaluations-1"
ABOUT, ROWS = "evaluations.yaml", "evaluations.csv"
COLUMNS = ("member", "accuracy", "loss", "widths", "depths")


@dataclass(frozen=True)
class Evaluated:
    """Top-1 in percent and cross-entropy of a member on held-out images."""

    accuracy: float
    loss: float


class Source(Protocol):
    """What evaluates members. `nas.supernet.evaluate.SlicedSupernet` is one.

    Attributes:
        of: what the figures depend on, as plain data: two sources that agree in it give the same.
        words: what it is, for people.
    """

    of: dict[str, Any]
    words: str

    def evaluate(self, base: Architecture, members: Sequence[Architecture]) -> Iterator[tuple[Architecture, Evaluated]]:
        """Each of the members, in any order; they differ from `base` by a move or not at all, which may save work."""
        ...


class Evaluations:
    """The evaluations of a search.

    Args:
        source: what evaluates.
        folder: where they are kept, and those are from that an earlier search made; in memory alone without.

    Raises:
        InputError: when the folder's evaluations are of something else, or damaged.
    """

    def __init__(self, source: Source, folder: Path | None = None) -> None:
        self.source, self.folder = source, folder
        self._known: dict[str, Evaluated] = {}
        if folder is not None:
            self._open(folder)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, base: Architecture, members: Sequence[Architecture]) -> dict[Architecture, Evaluated]:
        """The members' worth; those that nobody asked for yet are evaluated now. They are near to `base`."""
        new = [member for member in members if member_key(member) not in self._known]
        for member, found in self.source.evaluate(base, new) if new else ():
            self._known[member_key(member)] = found
            if self.folder is not None:
                self._append(self.folder / ROWS, member, found)
        return {member: self._known[member_key(member)] for member in members}

    def _open(self, folder: Path) -> None:
        wanted = {"format": FORMAT, **self.source.of}
        about, rows = folder / ABOUT, folder / ROWS
        if about.exists():
            file = YamlFile(about)
            for key, value in wanted.items():
                if file.data.get(key) != value:
                    raise file.error([key], f"the evaluations here are of {file.data.get(key)!r}, this search has "
                                            f"{value!r}; give another --out")  # fmt: skip
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_yaml(about, {**wanted, "source": self.source.words})
        if rows.exists():
            self._known = _read(rows)
        else:
            _write(rows, ",".join(COLUMNS) + "\n")

    def _append(self, path: Path, member: Architecture, found: Evaluated) -> None:
        text = io.StringIO()
        shape = ("-".join(map(str, values)) for values in (member.widths, member.depths))
        csv.writer(text, lineterminator="\n").writerow(
            [member_key(member), repr(found.accuracy), repr(found.loss), *shape]
        )
        _write(path, text.getvalue())


def member_key(arch: Architecture) -> str:
    """A name for a member by what stands at every position, the dropped ones too: they decide what it inherits."""
    data = {key: value for key, value in arch.to_dict().items() if key != "name"}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def unfinished(folder: Path) -> bool:
    """Whether a search that evaluates members was stopped in this folder."""
    return (folder / ABOUT).is_file() and not (folder / "run.yaml").exists()


def _read(path: Path) -> dict[str, Evaluated]:
    """The rows of a journal; a last one that a kill left half written is cut off."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    known: dict[str, Evaluated] = {}
    for number, record in enumerate(csv.DictReader(io.StringIO(whole.decode(errors="replace"))), start=2):
        try:
            known[record["member"]] = Evaluated(float(record["accuracy"]), float(record["loss"]))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}:{number}: is no row of {', '.join(COLUMNS)}; remove the line, and the same "
                             "command evaluates that member again") from None  # fmt: skip
    return known


def _write(path: Path, text: str) -> None:
    """Adds to a file, and waits until that is on disk."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise NasError(f"{path}: could not be written ({error.strerror}); what was evaluated before is kept, make room "
                       "and run the same command again") from error  # fmt: skip
