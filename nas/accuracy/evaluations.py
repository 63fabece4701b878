"""Evaluated accuracies of single members, each computed once and kept on disk.

The engines `slimming` and `learned` ask for them instead of adding up scores.

evaluations.yaml   the source of the evaluations: the supernet and the images
evaluations.csv    one row per member, appended as soon as it is known; a search that was killed and
                   is started again evaluates no member twice
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nas.csv_files import Writer, strict_records
from nas.errors import InputError
from nas.files import YamlFile, data_sha256, number_in, write_text, write_yaml
from nas.journals import append_text, read_whole
from nas.space import Architecture
from nas.tasks.classify import accuracy_error

FORMAT = "nas-evaluations-1"
ABOUT = "evaluations.yaml"
ROWS = "evaluations.csv"
COLUMNS = ("member", "accuracy", "loss", "widths", "depths", "standard_error")


@dataclass(frozen=True)
class Evaluated:
    """The result of evaluating a member on held-out images.

    Attributes:
        accuracy: top-1 in percent.
        loss: mean cross-entropy.
        standard_error: of `accuracy`, in points (`nas.accuracy.scores.accuracy_error`); None where
            the number of images is not known.
    """

    accuracy: float
    loss: float
    standard_error: float | None = None


class Source(Protocol):
    """An evaluator of members, such as `nas.supernet.evaluate.SlicedSupernet`.

    Attributes:
        of: everything that the results depend on, as plain data. Two sources with equal data give
            equal results.
        words: a description for people.
    """

    of: dict[str, Any]
    words: str

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        """Yield each of the members with its result, in any order.

        Args:
            base: a member from which the others differ by at most one move, which may save work.
            members: the members to evaluate.
        """
        ...


class Evaluations:
    """The evaluations of a search, each made once.

    Args:
        source: evaluates members.
        folder: keeps the evaluations, and may hold some of an earlier run; None for memory only.

    Raises:
        InputError: the folder's evaluations are of another source, or damaged.
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
        """Return the results of members; new members are evaluated now.

        Args:
            base: a member that the others are near to (`Source.evaluate`).
            members: the members whose results are returned.
        """
        new = [member for member in members if member_key(member) not in self._known]
        for member, result in self.source.evaluate(base, new) if new else ():
            # Appended one by one, so that a kill loses at most the evaluation in progress.
            self._known[member_key(member)] = result
            if self.folder is not None:
                self._append(self.folder / ROWS, member, result)
        return {member: self._known[member_key(member)] for member in members}

    def _open(self, folder: Path) -> None:
        # Results of different sources must not be mixed, so the folder records its source first.
        source = {"format": FORMAT, **self.source.of}
        about = folder / ABOUT
        rows = folder / ROWS
        if about.exists():
            file = YamlFile(about)
            for key, value in source.items():
                if file.data.get(key) != value:
                    raise file.error(
                        [key],
                        f"the evaluations here are of another source (got {file.data.get(key)!r},"
                        f" expected {value!r}). Fix: give a new folder as --out",
                    )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_yaml(about, {**source, "source": self.source.words})
        if not rows.exists():
            # The rows may be missing although the description exists: a kill came between the two.
            append_text(rows, ",".join(COLUMNS) + "\n", kept="evaluated")
            return
        self._known = _read(rows, self.source.of.get("images"))

    def _append(self, path: Path, member: Architecture, result: Evaluated) -> None:
        text = io.StringIO()
        shape = ("-".join(map(str, values)) for values in (member.widths, member.depths))
        Writer(text).row(
            [
                member_key(member),
                # `repr` keeps every digit, so that a resumed search decides as an uninterrupted
                # one.
                repr(result.accuracy),
                repr(result.loss),
                *shape,
                _text(result.standard_error),
            ]
        )
        append_text(path, text.getvalue(), kept="evaluated")


def member_key(arch: Architecture) -> str:
    """Return a key of a member's blocks at all positions, without its name.

    Dropped positions are part of the key, because they decide which weights the member inherits.
    """
    data = {key: value for key, value in arch.to_dict().items() if key != "name"}
    return data_sha256(data)[:16]


def unfinished(folder: Path) -> bool:
    """Return whether a search that evaluates members was stopped before its end in this folder."""
    return (folder / ABOUT).is_file() and not (folder / "run.yaml").exists()


def _read(path: Path, images: int | None) -> dict[str, Evaluated]:
    """Return the results in a journal by member key.

    A last row that a kill left half-written is cut off. A journal of an older version gets the
    column of standard errors, computed from the number of images, so that rows can be appended.
    """
    text = read_whole(path)
    if not text:
        return {}
    needed = ("member", "accuracy", "loss")
    records = list(strict_records(path, text, needed, short=True))
    known = {
        record["member"]: _evaluated(path, number, record, images) for number, record in records
    }
    if "standard_error" not in text.partition("\n")[0].strip().split(","):
        _upgrade(path, [record for _, record in records], known)
    return known


def _evaluated(path: Path, number: int, record: dict[str, Any], images: int | None) -> Evaluated:
    where = f"{path}:{number}"
    remedy = "Fix: remove the line, and the same command evaluates that member again"
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
            f"{where}: is not a row of {', '.join(COLUMNS)} ({reason}). {remedy}"
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
    writer = Writer(text)
    writer.row(COLUMNS)
    for record in records:
        error = _text(known[record["member"]].standard_error)
        full = {**record, "standard_error": error}
        writer.row(full.get(name, "") for name in COLUMNS)
    write_text(path, text.getvalue())


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)
