"""What every single move costs in accuracy, measured on the trained supernet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.data import ImageData
from nas.network import Network
from nas.search.moves import Drop, Localise, Move, Narrow, moves
from nas.space import Architecture, Space
from nas.supernet.augment import normalise
from nas.supernet.supernet import Supernet


@dataclass(frozen=True)
class Evaluation:
    """A member of the supernet on held-out images, its batch norms recalibrated.

    Attributes:
        move, stage, position, width: what was changed last (stage and position count from 1); move is `none` for the
            largest member.
        accuracy: top-1 in percent.
        loss: cross-entropy.
        standard_error: of the difference in accuracy to the largest member on the same images, in points.
    """

    move: str
    stage: int
    position: int | None
    width: int | None
    accuracy: float
    loss: float
    standard_error: float

    @property
    def key(self) -> tuple[str, int, int | None, int | None]:
        return self.move, self.stage, self.position, self.width


@dataclass(frozen=True)
class Variant:
    """An architecture to evaluate, and the row it is for."""

    row: Evaluation
    arch: Architecture


def variants(space: Space, widths: int) -> list[Variant]:
    """The members that tell what each move costs: one move away from the largest each, but for localising.

    Global blocks may only be localised from the first on, so those variants follow one another: each has one more
    local block than the one before. Of a stage's widths at most `widths` are taken, evenly spread, the ends included.
    """
    largest = space.largest()
    found = [Variant(_row("none", 0, None, None), largest)]
    for index, stage in enumerate(space.stages):
        if stage.depths[0] < stage.depths[1]:
            for position in range(stage.depths[1]):
                found.append(_variant(Drop(index, position), largest))
        chosen = np.unique(np.linspace(0, len(stage.widths) - 1, min(widths, len(stage.widths))).round().astype(int))
        for width in (stage.widths[i] for i in reversed(chosen) if i < len(stage.widths) - 1):
            found.append(_variant(Narrow(index, width), largest))
    for index in range(len(space.stages)):
        arch = largest
        for _ in range(space.stages[index].depths[1] if space.stages[index].global_ else 0):
            variant = _next_local(space, arch, index)
            if variant is None:
                break
            found.append(variant)
            arch = variant.arch
    return found


def _next_local(space: Space, arch: Architecture, stage: int) -> Variant | None:
    """The variant with one more local block in `stage`, all stages before it localised first where they have to be."""
    while True:
        legal = [move for move in moves(space, arch) if isinstance(move, Localise) and move.stage <= stage]
        if not legal:
            return None
        move = max(legal, key=lambda m: m.stage)
        if move.stage == stage:
            return _variant(move, arch)
        arch = move.apply(arch)


def _variant(move: Move, arch: Architecture) -> Variant:
    if isinstance(move, Narrow):
        row = _row("narrow", move.stage + 1, None, move.width)
    else:
        row = _row("drop" if isinstance(move, Drop) else "localise", move.stage + 1, move.position + 1, None)
    return Variant(row, move.apply(arch))


def _row(move: str, stage: int, position: int | None, width: int | None) -> Evaluation:
    return Evaluation(move, stage, position, width, float("nan"), float("nan"), float("nan"))


class Evaluator:
    """Evaluates members of a supernet that differ from its largest one, computing what they share once.

    The largest member is walked once, operation by operation; a variant branches off at its first operation that
    differs, from the activations that stand there. Batch norms are recalibrated on the way: a batch of training
    images gives each its statistics just before the held-out images pass it.
    """

    def __init__(
        self, supernet: Supernet, calibration: ImageData, held_out: ImageData, *, batch: int = 250, bf16: bool = False
    ) -> None:
        self.supernet, self.bf16 = supernet.eval(), bf16
        self.place = next(supernet.parameters()).device
        self.calibration = [self._images(calibration, slice(None))]
        self.images = [self._images(held_out, slice(i, i + batch)) for i in range(0, len(held_out), batch)]
        self.labels = torch.from_numpy(np.array(held_out.labels))

    @torch.no_grad()
    def evaluate(self, variants: Sequence[Variant]) -> Iterator[Evaluation]:
        """One evaluation a variant, in the order in which the walk reaches them; the largest member first."""
        space = self.supernet.space
        largest = self.supernet.extract(space.largest())
        baseline = self._judge(largest, 0, (self.calibration, self.images))
        branches: dict[int, list[Variant]] = {}
        for variant in variants:
            if variant.row.move == "none":
                yield self._evaluation(variant.row, baseline, baseline)
            else:
                branches.setdefault(_first_difference(space.largest(), variant.arch), []).append(variant)
        walked = (self.calibration, self.images)
        for index, block in enumerate(largest.children()):
            for variant in branches.get(index, []):
                network = self.supernet.extract(variant.arch)
                yield self._evaluation(variant.row, self._judge(network, index, walked), baseline)
            walked = self._pass(block, walked)

    @torch.no_grad()
    def _judge(self, network: Network, start: int, walked: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """The log-probabilities (N, classes) of a network from its operation `start` on."""
        for block in list(network.children())[start:]:
            walked = self._pass(block, walked)
        return torch.cat(walked[1]).float().log_softmax(dim=1).cpu()

    def _pass(self, block: nn.Module, walked: tuple[list[Tensor], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.autocast(self.place.type, dtype=torch.bfloat16, enabled=self.bf16):
            calibration = [recalibrate(block, x) for x in walked[0]]
            return calibration, [block(x) for x in walked[1]]

    def _evaluation(self, row: Evaluation, judged: Tensor, baseline: Tensor) -> Evaluation:
        right = (judged.argmax(dim=1) == self.labels).double()
        difference = right - (baseline.argmax(dim=1) == self.labels).double()
        error = 100 * float(difference.std(unbiased=False)) / len(right) ** 0.5
        loss = float(F.nll_loss(judged, self.labels))
        return replace(row, accuracy=100 * float(right.mean()), loss=loss, standard_error=error)

    def _images(self, data: ImageData, part: slice) -> Tensor:
        pixels: NDArray[np.uint8] = np.array(data.images[part])
        return normalise(torch.from_numpy(pixels).to(self.place)).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def recalibrate(block: nn.Module, x: Tensor) -> Tensor:
    """Gives the batch norms of a block the statistics of one large batch, and returns the block's output for it."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    output: Tensor = block(x)
    for norm in norms:
        norm.eval()
    return output


def _first_difference(base: Architecture, arch: Architecture) -> int:
    """The index of the first operation in which two architectures differ."""
    pairs = list(zip(base.operations(), arch.operations(), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def measure(
    evaluator: Evaluator, space: Space, journal: Path, *, widths: int = 8,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
) -> list[Evaluation]:  # fmt: skip
    """Evaluates all variants, each written to `journal` at once; what a killed run measured is not measured again."""
    wanted = variants(space, widths)
    rows = {row.key: row for row in _read(journal)}
    rest = [variant for variant in wanted if variant.row.key not in rows]
    if rest:
        for row in evaluator.evaluate(rest):
            rows[row.key] = row
            _append(journal, row)
            report(len(rows), len(wanted), row)
    return [rows[variant.row.key] for variant in wanted]


def _read(journal: Path) -> list[Evaluation]:
    if not journal.exists():
        return []
    # A line that a kill cut off has no last value: its variant is measured again.
    rows: Any = pd.read_csv(journal).dropna(subset=["standard_error"]).to_dict("records")
    return [Evaluation(**row | {name: _number(row[name]) for name in ("position", "width")}) for row in rows]


def _number(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


def _append(journal: Path, row: Evaluation) -> None:
    frame = pd.DataFrame([asdict(row)]).round(6)
    frame.to_csv(journal, mode="a", header=not journal.exists(), index=False)
