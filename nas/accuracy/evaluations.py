"""What members are worth, judged one by one instead of by scores that add up: each once, and kept
on disk.

evaluations.yaml   what judged: the supernet, the images
evaluations.csv    a row a member, written as soon as it is known, so that a search that was killed
asks for none twice
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nas.accuracy.scores import accuracy_error
from nas.errors import InputError
from nas.files import YamlFile, data_sha256, number_in, write_text, write_yaml
from nas.journals import append_text, read_whole
from nas.space import Architecture

FORMAT = "nas-evaluations-1"
ABOUT = "evaluations.yaml"
ROWS = "evaluations.csv"
COLUMNS = ("member", "accuracy", "loss", "widths", "depths", "standard_error")


@dataclass(frozen=True)
class Evaluated:
    """A member on held-out images.

    Attributes:
        accuracy: top-1 in percent.
        loss: cross-entropy.
        standard_error: of `accuracy`, in points (`nas.accuracy.scores.accuracy_error`); None where
            the number of images is not known.
    """

    accuracy: float
    loss: float
    standard_error: float | None = None


class Source(Protocol):
    """What evaluates members. `nas.supernet.evaluate.SlicedSupernet` is one.

    Attributes:
        of: what the figures depend on, as plain data: two sources that agree in it give the same.
        words: what it is, for people.
    """

    of: dict[str, Any]
    words: str

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        """Return each of the members, in any order; they differ from `base` by a move or not at
        all, which may save work."""
        ...


class Evaluations:
    """The evaluations of a search.

    Args:
        source: what evaluates.
        folder: where they are kept, and those are from that an earlier search made; in memory alone
            without.

    Raises:
        InputError: when the folder's evaluations are of something else, or damaged.
    """

    def __init__(self, source: Source, folder: Path | None = None) -> None:
        self.source = source
        self.folder = folder
        self._known: dict[str, Evaluated] = {}
        if folder is not None:
            self._open(folder)

    def __len__(self) -> int:
        return len(self._known)

    def of(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> dict[Architecture, Evaluated]:
        """Return the members' worth; those that nobody asked for yet are evaluated now. They are
        near to `base`."""
        new = [member for member in members if member_key(member) not in self._known]
        for member, found in self.source.evaluate(base, new) if new else ():
            self._known[member_key(member)] = found
            if self.folder is not None:
                self._append(self.folder / ROWS, member, found)
        return {member: self._known[member_key(member)] for member in members}

    def _open(self, folder: Path) -> None:
        wanted = {"format": FORMAT, **self.source.of}
        about = folder / ABOUT
        rows = folder / ROWS
        if about.exists():
            file = YamlFile(about)
            for key, value in wanted.items():
                if file.data.get(key) != value:
                    raise file.error(
                        [key],
                        f"the evaluations here are of {file.data.get(key)!r}, this search has "
                        f"{value!r}; give another --out",
                    )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_yaml(about, {**wanted, "source": self.source.words})
        if not rows.exists():
            append_text(rows, ",".join(COLUMNS) + "\n", kept="evaluated")
            return
        self._known = _read(rows, self.source.of.get("images"))

    def _append(self, path: Path, member: Architecture, found: Evaluated) -> None:
        text = io.StringIO()
        shape = ("-".join(map(str, values)) for values in (member.widths, member.depths))
        csv.writer(text, lineterminator="\n").writerow(
            [
                member_key(member),
                repr(found.accuracy),
                repr(found.loss),
                *shape,
                _text(found.standard_error),
            ]
        )
        append_text(path, text.getvalue(), kept="evaluated")


def member_key(arch: Architecture) -> str:
    """Return a name for a member by what stands at every position, the dropped ones too: they
    decide what it inherits."""
    data = {key: value for key, value in arch.to_dict().items() if key != "name"}
    return data_sha256(data)[:16]


def unfinished(folder: Path) -> bool:
    """Return whether a search that evaluates members was stopped in this folder."""
    return (folder / ABOUT).is_file() and not (folder / "run.yaml").exists()


def _read(path: Path, images: int | None) -> dict[str, Evaluated]:
    """Return the rows of a journal, in the columns of today.

    A last row that a kill left half written is cut off. A journal of an older version gets the
    column that it lacks, so that rows can be appended; its standard errors follow from the number
    of images.
    """
    reader = csv.DictReader(io.StringIO(read_whole(path)))
    records = list(reader)
    known = {
        str(record.get("member")): _evaluated(path, number, record, images)
        for number, record in enumerate(records, start=2)
    }
    if "standard_error" not in (reader.fieldnames or ()):
        _upgrade(path, records, known)
    return known


def _evaluated(path: Path, number: int, record: dict[str, Any], images: int | None) -> Evaluated:
    where = f"{path}:{number}"
    remedy = "Remove the line, and the same command evaluates that member again"
    try:
        accuracy, loss = (
            number_in(where, name, record[name] or "") for name in ("accuracy", "loss")
        )
        text = record.get("standard_error")
        error = number_in(where, "standard_error", text) if text else None
        if not record["member"]:
            raise InputError("member: is missing")
    except (InputError, KeyError) as problem:
        reason = problem.reason if isinstance(problem, InputError) else f"{problem} is missing"
        raise InputError(
            f"{where}: is no row of {', '.join(COLUMNS)} ({reason}). {remedy}"
        ) from None
    if not 0 <= accuracy <= 100:
        raise InputError(
            f"{where}: accuracy: {accuracy:g} is not a percentage, expected 0 to 100. {remedy}"
        )
    if error is not None and error <= 0:
        raise InputError(f"{where}: standard_error: {error:g} is not above 0. {remedy}")
    if error is None and images:
        error = accuracy_error(accuracy, images)
    return Evaluated(accuracy, loss, error)


def _upgrade(path: Path, records: Sequence[dict[str, Any]], known: dict[str, Evaluated]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({**record, "standard_error": _text(known[record["member"]].standard_error)})
    write_text(path, text.getvalue())


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)
