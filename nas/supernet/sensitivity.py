"""Measures how accurate members of a trained supernet are on held-out images.

`nas.supernet.score` evaluates every single move with it, `nas.supernet.evaluate` the candidates of
a search. Members are evaluated in groups (`nas.supernet.walk`), which processes share.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nas.accuracy.single_moves import LARGEST, Key, Variant
from nas.csv_files import Writer, count_in, strict_records
from nas.data import ImageData
from nas.errors import InputError, NasError
from nas.files import number_in, write_text
from nas.journals import append_text, read_whole
from nas.space import Architecture
from nas.supernet.groups import Work, next_groups, passes
from nas.supernet.supernet import Supernet
from nas.supernet.walk import Result, Walk, default_batch, first_difference
from nas.tasks import task_of
from nas.training.distributed import ALONE, Processes
from nas.training.evaluate import memory_ran_out
from nas.training.step import largest_fit

if TYPE_CHECKING:
    from nas.tasks.base import Tally

GROUP_SECONDS = 60
"""Time that a group of members should take: work that a kill loses."""
_GROUP = (2.0, 8.0)
"""Least and most forward passes over all images that a group takes.

Each group walks the base once more. With fewer passes this would take too large a share of the time.
"""


@dataclass(frozen=True)
class Evaluation:
    """The result of one member on held-out images, its batch norms recalibrated.

    Attributes:
        move, place, choice: the last change, as in `nas.accuracy.single_moves.Score`; move is
            `none` for the largest member.
        accuracy: in percent of the metric of the supernet's task.
        loss: mean cross-entropy.
        standard_error: standard error of the difference in accuracy to the member that this one is
            compared with (`Variant.base`) on the same images, in points. For the member that is
            compared with nothing, standard error of its accuracy.
        lost, gained: number of images that the other member classifies right and this one wrong,
            and the reverse; None in journals of older versions, and where images have masks.
    """

    move: str
    place: str
    choice: str
    accuracy: float
    loss: float
    standard_error: float
    lost: int | None = None
    gained: int | None = None

    @property
    def key(self) -> Key:
        return self.move, self.place, self.choice


class NoMemory(NasError):
    """Memory ran out while members were evaluated.

    Attributes:
        batch: number of held-out images that were walked at once.
        fit: a smaller number that fits, 0 if none does.
    """

    def __init__(self, batch: int, fit: int) -> None:
        remedy = f"{fit} fit" if fit else "not even one fits"
        super().__init__(f"out of memory while members are evaluated on {batch} images: {remedy}")
        self.batch = batch
        self.fit = fit


class Evaluator:
    """Evaluator of members that differ from one base member; what they share is computed once.

    Args:
        supernet: a trained one, on the device to compute on.
        calibration: training images, which give the batch norms of every member their statistics.
        held_out: the images to evaluate on.
        batch: number of held-out images that are walked at once; it changes nothing but memory and
            time.
        bf16: compute in bf16.
        together: processes that share the members; all must call the methods with equal arguments.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: ImageData,
        held_out: ImageData,
        *,
        batch: int | None = None,
        bf16: bool = False,
        together: Processes = ALONE,
    ) -> None:
        self.supernet = supernet
        self.task = task_of(supernet.space.heads[0])
        self.walk = Walk(supernet, calibration, held_out, bf16)
        self.batch = batch or default_batch(supernet.space.largest(), self.walk.device)
        self.together = together

    def evaluate(
        self, variants: Sequence[Variant], base: Architecture | None = None
    ) -> Iterator[Evaluation]:
        """Yield an evaluation per variant, in the order in which the walk reaches them.

        Variants that equal `base` come first; see `rounds`.
        """
        for rows in self.rounds(variants, base):
            yield from rows

    def rounds(
        self, variants: Sequence[Variant], base: Architecture | None = None
    ) -> Iterator[list[Evaluation]]:
        """Yield the evaluations of a group per process, in every process, until all are done.

        Args:
            variants: members, and what each is compared with, which must be `base` or stand before
                it among them.
            base: the member that is walked, by default the largest. `Variant.base` calls it
                LARGEST.

        Raises:
            NasError: see `results`.
        """
        base = base or self.supernet.space.largest()
        itself = Variant(LARGEST, base)
        end = len(base.operations())
        first = any(first_difference(base, each.arch) == end for each in variants)
        compared = {variant.base for variant in variants}
        # Maps a member that others are compared with to its tally of the images (N, ...). A member is
        # compared with one that differs from `base` no later in the network, so the walk has reached
        # that one before.
        tallies: dict[Key, Tally] = {}
        wanted = list(variants) if first else [itself, *variants]
        for group in self.results(wanted, base):
            rows = []
            for variant, result in group:
                if LARGEST not in tallies:  # the base, or a variant that equals it, comes first
                    tallies[LARGEST] = result.tally
                if variant.key in compared:
                    tallies[variant.key] = result.tally
                if variant is not itself:
                    rows.append(self._evaluation(variant, result, tallies))
            yield rows

    def results(
        self, variants: Sequence[Variant], base: Architecture
    ) -> Iterator[list[tuple[Variant, Result]]]:
        """Yield the results of a group per process, in every process, until all are done.

        A result depends neither on the groups nor on which process computes it.

        Raises:
            NoMemory: with a batch that fits.
            NasError: when the outputs of a member are not finite.
        """
        rest = [Work.of(variant, base) for variant in variants]
        # In the order in which the walk reaches them, but what equals the base comes first: all
        # others are compared with it. The sort keeps the order of those that branch off together.
        end = len(base.operations())
        rest.sort(key=lambda each: -1 if each.start == end else each.start)
        limit = _GROUP[0]
        while rest:
            groups = next_groups(rest, limit, self.together.count)
            rest = rest[sum(map(len, groups)) :]
            mine = groups[self.together.index] if self.together.index < len(groups) else []
            found, seconds = self._group([each.variant.arch for each in mine], base)
            evaluated = [each.variant for group in groups for each in group]
            shared = self._shared(found, [len(group) for group in groups])
            pairs = list(zip(evaluated, shared, strict=True))
            with self.together.agreed():
                _check_finite(pairs)
            yield pairs
            # The first groups tell how fast this machine is. All processes must form equal groups.
            work = max(passes(group) for group in groups)
            slowest = torch.zeros(self.together.count, dtype=torch.float64)
            slowest[self.together.index] = seconds
            longest = float(self.together.share(slowest).max())
            limit = min(max(GROUP_SECONDS * work / max(longest, 1e-9), _GROUP[0]), _GROUP[1])

    def _group(
        self, members: Sequence[Architecture], base: Architecture
    ) -> tuple[list[Result], float]:
        """Return this process's results of a group, and the seconds that they took."""
        begin = time.monotonic()
        found: list[Result] | None = None
        with self.together.agreed():
            try:
                found = self.walk.results(base, members, self.batch) if members else []
            except (RuntimeError, MemoryError) as error:
                if not memory_ran_out(error):
                    raise
            # After the `except` block, where the traceback no longer holds the tensors.
            if found is None:
                raise self._no_memory(base, members)
            seconds = time.monotonic() - begin
        return found, seconds

    def _no_memory(self, base: Architecture, members: Sequence[Architecture]) -> NoMemory:
        """Return the error that names the largest batch of a member that fits."""
        # The member that branches off first computes most of its own.
        member = min(members, key=lambda each: first_difference(base, each))

        def attempt(size: int) -> None:
            try:
                self.walk.results(base, [member], size, images=size)
            except RuntimeError as error:
                if memory_ran_out(error):  # `largest_fit` does not know oneDNN's words
                    raise MemoryError from None
                raise

        size = min(self.batch, len(self.walk.held_out))
        return NoMemory(size, largest_fit(attempt, size))

    def _shared(self, found: Sequence[Result], counts: Sequence[int]) -> list[Result]:
        """Return the results of all processes, in the order of the groups, of `counts` members."""
        images = len(self.walk.held_out)
        # (members, images, ...) and (members,): every process fills its own rows, the others are 0.
        shape = self.task.tally_shape(self.supernet.space.classes)
        tallies = torch.zeros(sum(counts), images, *shape, dtype=torch.int32)
        loss = torch.zeros(sum(counts), dtype=torch.float64)
        before = sum(counts[: self.together.index])
        for row, result in enumerate(found, start=before):
            tallies[row] = torch.from_numpy(result.tally)
            loss[row] = result.loss
        self.together.share(tallies)
        self.together.share(loss)
        return [
            Result(tally.numpy(), float(value)) for tally, value in zip(tallies, loss, strict=True)
        ]

    def _evaluation(
        self, variant: Variant, result: Result, tallies: Mapping[Key, Tally]
    ) -> Evaluation:
        """Return the evaluation of a variant from its result."""
        figure = self.task.figure(result.tally)
        change = self.task.difference(tallies[variant.base], result.tally)
        alone = variant.key == LARGEST
        error = figure.standard_error if alone else change.standard_error
        return Evaluation(
            *variant.key, figure.value, result.loss, error, change.lost, change.gained
        )


def _check_finite(results: Sequence[tuple[Variant, Result]]) -> None:
    """Raise NasError for the first member whose outputs are not finite."""
    for variant, result in results:
        if not math.isfinite(result.loss):
            # argmax over NaN gives a class, too: the member would get a meaningless accuracy.
            what = " ".join(part for part in variant.key if part)
            raise NasError(
                f"the supernet's outputs are not finite (loss {result.loss:g}) for the member"
                f" '{what}'. Train anew with a lower --learning-rate"
            )


def measure(
    evaluator: Evaluator,
    wanted: Sequence[Variant],
    journal: Path,
    *,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
) -> list[Evaluation]:
    """Return an evaluation per variant; those in `journal` are read, the others appended to it.

    Evaluations are appended as soon as their group is done, so a killed run loses that group alone.

    Args:
        evaluator: of the trained supernet.
        wanted: the variants; each stands after the one that it is compared with.
        journal: a CSV file, which may be missing. The main process alone reads and writes it.
        report: called with the number done, the number wanted, and the last evaluation, in the main
            process.

    Returns:
        The evaluations, in the order of `wanted`; in the main process alone those of the journal.
    """
    together = evaluator.together
    with together.agreed():
        rows = {row.key: row for row in _read(journal)} if together.main else {}
    # (variants,): 1 where the journal has the evaluation.
    known = together.share(torch.tensor([int(variant.key in rows) for variant in wanted]))
    done = {variant.key for variant, there in zip(wanted, known.tolist(), strict=True) if there}
    rest = [variant for variant in wanted if variant.key not in done]
    if rest:
        # Members that the rest is compared with are evaluated again even where the journal has
        # them: it does not say which images they classify right.
        needed = {variant.key for variant in rest}
        # Backwards: a member's base stands before it, so one pass reaches chains of bases.
        for variant in reversed(wanted):
            if variant.key in needed:
                needed.add(variant.base)
        if LARGEST in done:  # the evaluator walks the largest member anyway
            needed.discard(LARGEST)
        again = [variant for variant in wanted if variant.key in needed]
        for group in evaluator.rounds(again):
            # Rounded as in the journal, so that a resumed run gives the same scores to the last
            # digit as one that was never stopped.
            new = [_rounded(row) for row in group if row.key not in done]
            with together.agreed():
                if together.main and new:
                    _append(journal, new)
            for row in new:
                rows[row.key] = row
                done.add(row.key)
                if together.main:
                    report(len(done), len(wanted), row)
    return [rows[variant.key] for variant in wanted if variant.key in rows]


COLUMNS = tuple(field.name for field in fields(Evaluation))
"""Columns of the journal."""
_NEW = ("lost", "gained")
"""Columns that are missing in journals of older versions."""


def _read(journal: Path) -> list[Evaluation]:
    """Return the rows of a journal, without a last row that a kill left half written."""
    text = read_whole(journal)
    if not text:
        return []
    needed = [name for name in COLUMNS if name not in _NEW]
    # A kill of an older version could cut a row's last fields off. Its variant is measured again.
    rows = [
        _row(f"{journal}:{number}", record)
        for number, record in strict_records(journal, text, needed, short=True)
        if record["standard_error"]
    ]
    # A journal of an older version gets today's columns, so that appended rows fit its header.
    if rows and not set(COLUMNS) <= set(text.partition("\n")[0].strip().split(",")):
        write_text(journal, _csv(rows, header=True))
    return rows


def _row(where: str, record: Mapping[str, str | None]) -> Evaluation:
    """Return the evaluation in a row.

    Raises:
        InputError: naming line and column.
    """
    accuracy, loss, error = (
        number_in(where, name, record.get(name) or "")
        for name in ("accuracy", "loss", "standard_error")
    )
    if error < 0:
        raise InputError(f"{where}: standard_error: {error:g} is negative, expected at least 0")
    for name in _NEW:
        if record.get(name):
            number_in(where, name, record[name] or "")
    counts = [count_in(where, name, text) if (text := record.get(name)) else None for name in _NEW]
    key = (record.get("move") or "", record.get("place") or "", record.get("choice") or "")
    return Evaluation(*key, accuracy, loss, error, *counts)


def _append(journal: Path, rows: Sequence[Evaluation]) -> None:
    new = not journal.exists() or journal.stat().st_size == 0
    append_text(journal, _csv(rows, header=new), kept="evaluated")


def _csv(rows: Sequence[Evaluation], header: bool) -> str:
    text = io.StringIO()
    writer = Writer(text)
    if header:
        writer.row(COLUMNS)
    writer.rows(asdict(row).values() for row in rows)
    return text.getvalue()


def _rounded(row: Evaluation) -> Evaluation:
    return replace(
        row,
        accuracy=round(row.accuracy, 6),
        loss=round(row.loss, 6),
        standard_error=round(row.standard_error, 6),
    )
