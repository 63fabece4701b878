"""Measures how accurate members of a trained supernet are on held-out images.

`nas.supernet.score` evaluates every single move with it, `nas.supernet.evaluate` the candidates of
a search. Members that share their first operations share the computation of these.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.accuracy.scores import accuracy_error, difference_error
from nas.accuracy.single_moves import LARGEST, Key, Variant
from nas.data import ImageData
from nas.errors import InputError, NasError
from nas.files import number_in, write_text
from nas.journals import append_text, read_whole
from nas.network import Network
from nas.space import Architecture
from nas.supernet.supernet import Supernet
from nas.training.batches import normalise
from nas.training.evaluate import recalibrate


@dataclass(frozen=True)
class Evaluation:
    """The result of one member on held-out images, its batch norms recalibrated.

    Attributes:
        move, place, choice: the last change, as in `nas.accuracy.single_moves.Score`; move is
            `none` for the largest member.
        accuracy: top-1 in percent.
        loss: mean cross-entropy.
        standard_error: standard error of the difference in accuracy to the member that this one is
            compared with (`Variant.base`) on the same images, in points. For the member that is
            compared with nothing, standard error of its accuracy.
        lost, gained: number of images that the other member classifies right and this one wrong,
            and the reverse; None in journals of older versions.
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


class Evaluator:
    """Evaluator of members that differ from one base member; what they share is computed once.

    The base is walked once, operation by operation. A variant branches off at its first operation
    that differs, from the activations at that point. Batch norms are recalibrated on the way: a
    batch of training images gives each its statistics just before the held-out images pass it.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: ImageData,
        held_out: ImageData,
        *,
        batch: int = 250,
        bf16: bool = False,
    ) -> None:
        self.supernet = supernet.eval()
        self.bf16 = bf16
        self.place = next(supernet.parameters()).device
        # One batch: the statistics of a batch norm are then exactly those of these images.
        self.calibration = [self._images(calibration, slice(None))]
        self.images = [
            self._images(held_out, slice(i, i + batch)) for i in range(0, len(held_out), batch)
        ]
        self.labels = torch.from_numpy(np.array(held_out.labels))

    @torch.no_grad()
    def evaluate(
        self, variants: Sequence[Variant], base: Architecture | None = None
    ) -> Iterator[Evaluation]:
        """Yield an evaluation per variant, in the order in which the walk reaches them.

        Variants that equal `base` come first.

        Args:
            variants: members, and what each is compared with, which must be `base` or stand before
                it among them.
            base: the member that is walked, by default the largest. `Variant.base` calls it
                LARGEST.
        """
        base = base or self.supernet.space.largest()
        network = self.supernet.extract(base)
        baseline = self._judge(network, 0, (self.calibration, self.images))
        # Maps a member that others are compared with to the images (N,) that it classifies right. A
        # member is compared with one that differs from `base` no later in the network, so the walk
        # has reached that one before.
        right = {LARGEST: self._right(baseline)}
        compared = {variant.base for variant in variants}
        # Variants by the index of the operation at which they leave the walk.
        branches: dict[int, list[Variant]] = {}
        for variant in variants:
            first = _first_difference(base, variant.arch)
            if first == len(base.operations()):
                # It is `base` itself, which was evaluated above.
                yield self._evaluation(variant, baseline, right)
            else:
                branches.setdefault(first, []).append(variant)
        # Invariant of the loop: `walked` holds the inputs of the operation `index` of `base`.
        walked = (self.calibration, self.images)
        for index, block in enumerate(network.children()):
            for variant in branches.get(index, []):
                # Only the operations from `index` on are computed for the variant.
                branch = self.supernet.extract(variant.arch)
                judged = self._judge(branch, index, walked)
                yield self._evaluation(variant, judged, right)
                if variant.key in compared:
                    right[variant.key] = self._right(judged)
            walked = self._pass(block, walked)

    @torch.no_grad()
    def _judge(
        self, network: Network, start: int, walked: tuple[list[Tensor], list[Tensor]]
    ) -> Tensor:
        """Return the log-probabilities (N, classes) of a network from its operation `start` on."""
        for block in list(network.children())[start:]:
            walked = self._pass(block, walked)
        return torch.cat(walked[1]).float().log_softmax(dim=1).cpu()

    def _pass(
        self, block: nn.Module, walked: tuple[list[Tensor], list[Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs of a block for the calibration images and for the held-out ones."""
        # Calibration comes first: it sets the statistics that the held-out images then meet.
        with torch.autocast(self.place.type, dtype=torch.bfloat16, enabled=self.bf16):
            calibration = [recalibrate(block, x) for x in walked[0]]
            return calibration, [block(x) for x in walked[1]]

    def _right(self, judged: Tensor) -> Tensor:
        """Return a mask (N,) of the images whose own class has the largest log-probability."""
        return judged.argmax(dim=1) == self.labels

    def _evaluation(
        self, variant: Variant, judged: Tensor, right: Mapping[Key, Tensor]
    ) -> Evaluation:
        """Return the evaluation of a variant from its log-probabilities (N, classes).

        Raises:
            NasError: when its outputs are not finite.
        """
        loss = float(F.nll_loss(judged, self.labels))
        if not math.isfinite(loss):
            # argmax over NaN gives a class, too: the member would get a meaningless accuracy.
            what = " ".join(part for part in variant.key if part)
            raise NasError(
                f"the supernet's outputs are not finite (loss {loss:g}) for the member '{what}'."
                " Fix: train again with a lower --learning-rate and a new --out"
            )
        now = self._right(judged)
        before = right[variant.base]
        images = len(now)
        accuracy = 100 * float(now.double().mean())
        # Both members saw the same images. Only those on which they differ carry information, so
        # the paired error is smaller than that of two independent accuracies (as McNemar's test).
        lost = int((before & ~now).sum())
        gained = int((now & ~before).sum())
        alone = variant.key == LARGEST
        error = (
            accuracy_error(accuracy, images) if alone else difference_error(lost, gained, images)
        )
        return Evaluation(*variant.key, accuracy, loss, error, lost, gained)

    def _images(self, data: ImageData, part: slice) -> Tensor:
        pixels: NDArray[np.uint8] = np.array(data.images[part])
        return normalise(torch.from_numpy(pixels).to(self.place)).contiguous(
            memory_format=torch.channels_last
        )


@torch.no_grad()
def _first_difference(base: Architecture, arch: Architecture) -> int:
    """Return the index of the first operation in which two architectures differ."""
    pairs = list(zip(base.operations(), arch.operations(), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def measure(
    evaluator: Evaluator,
    wanted: Sequence[Variant],
    journal: Path,
    *,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
) -> list[Evaluation]:
    """Return an evaluation per variant; those in `journal` are read, the others appended to it.

    Each evaluation is appended as soon as it is done, so a killed run loses the current one alone.

    Args:
        evaluator: of the trained supernet.
        wanted: the variants; each stands after the one that it is compared with.
        journal: a CSV file, which may be missing.
        report: called with the number done, the number wanted, and the last evaluation.
    """
    rows = {row.key: row for row in _read(journal)}
    rest = [variant for variant in wanted if variant.key not in rows]
    if rest:
        # Members that the rest is compared with are evaluated again even where the journal has
        # them: it does not say which images they classify right.
        needed = {variant.key for variant in rest}
        # Backwards: a member's base stands before it, so one pass reaches chains of bases.
        for variant in reversed(wanted):
            if variant.key in needed:
                needed.add(variant.base)
        if LARGEST in rows:  # the evaluator walks the largest member anyway
            needed.discard(LARGEST)
        again = [variant for variant in wanted if variant.key in needed]
        for row in evaluator.evaluate(again):
            if row.key in rows:
                continue
            # Rounded as in the journal, so that a resumed run gives the same scores to the last
            # digit as one that was never stopped.
            rows[row.key] = _rounded(row)
            _append(journal, rows[row.key])
            report(len(rows), len(wanted), row)
    return [rows[variant.key] for variant in wanted]


COLUMNS = tuple(field.name for field in fields(Evaluation))
"""Columns of the journal."""
_NEW = ("lost", "gained")
"""Columns that are missing in journals of older versions."""


def _read(journal: Path) -> list[Evaluation]:
    """Return the rows of a journal, without a last row that a kill left half written."""
    reader = csv.DictReader(io.StringIO(read_whole(journal)))
    rows = []
    for number, record in enumerate(reader, start=2):
        # A kill of an older version could cut a row's last fields off. Its variant is measured
        # again.
        if not record.get("standard_error"):
            continue
        rows.append(_row(f"{journal}:{number}", record))
    # A journal of an older version gets today's columns, so that appended rows fit its header.
    if rows and not set(COLUMNS) <= set(reader.fieldnames or ()):
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
    counts = [
        int(number_in(where, name, text)) if (text := record.get(name)) else None for name in _NEW
    ]
    key = (record.get("move") or "", record.get("place") or "", record.get("choice") or "")
    return Evaluation(*key, accuracy, loss, error, *counts)


def _append(journal: Path, row: Evaluation) -> None:
    new = not journal.exists() or journal.stat().st_size == 0
    append_text(journal, _csv([row], header=new), kept="evaluated")


def _csv(rows: Sequence[Evaluation], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow(asdict(row))
    return text.getvalue()


def _rounded(row: Evaluation) -> Evaluation:
    return replace(
        row,
        accuracy=round(row.accuracy, 6),
        loss=round(row.loss, 6),
        standard_error=round(row.standard_error, 6),
    )
