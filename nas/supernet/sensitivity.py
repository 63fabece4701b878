"""What every single move costs in accuracy, measured on the trained supernet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.accuracy.recorded import choice_text, position_name
from nas.data import ImageData
from nas.network import Network
from nas.space import Architecture, Space
from nas.space.moves import Drop, Exchange, Localise, exchanges, moves, narrow
from nas.supernet.supernet import Supernet
from nas.training.augment import normalise

Key = tuple[str, str, str]
LARGEST: Key = ("none", "", "")


@dataclass(frozen=True)
class Evaluation:
    """A member of the supernet on held-out images, its batch norms recalibrated.

    Attributes:
        move, place, choice: what was changed last, as in `nas.accuracy.recorded.Score`; move is `none` for the largest
            member.
        accuracy: top-1 in percent.
        loss: cross-entropy.
        standard_error: of the difference in accuracy to the largest member on the same images, in points.
    """

    move: str
    place: str
    choice: str
    accuracy: float
    loss: float
    standard_error: float

    @property
    def key(self) -> Key:
        return self.move, self.place, self.choice


@dataclass(frozen=True)
class Variant:
    """An architecture to evaluate, the row it is for, and the row that it is compared with."""

    key: Key
    arch: Architecture
    base: Key = LARGEST


def variants(space: Space, widths: int) -> list[Variant]:
    """The members that tell what each move costs: one move away from the largest each, but for localising.

    Global blocks may only be localised from the first on, so those variants follow one another: each has one more
    local block than the one before, and each exchange of a local block starts from the variant that has it. Of a
    stage's widths at most `widths` are taken, evenly spread, the ends included.
    """
    largest = space.largest()
    found = [Variant(LARGEST, largest)]
    for index, stage in enumerate(space.stages):
        if stage.depths[0] < stage.depths[1]:
            for position in range(stage.depths[1]):
                place = position_name(index, position)
                found.append(Variant(("drop", place, ""), Drop(index, position).apply(largest)))
        chosen = np.unique(np.linspace(0, len(stage.widths) - 1, min(widths, len(stage.widths))).round().astype(int))
        for width in (stage.widths[i] for i in reversed(chosen) if i < len(stage.widths) - 1):
            key = ("narrow", f"stage{index + 1}", str(width))
            found.append(Variant(key, narrow(space, largest, index, width).apply(largest)))
    found += [_exchanged(move, largest, LARGEST) for move in exchanges(space, largest)]
    return found + list(_localised(space))


def _localised(space: Space) -> Iterator[Variant]:
    """Stage after stage from the largest member, where the space's rule allows it, else all stages before it first."""
    arch, base = space.largest(), LARGEST
    for index in range(len(space.stages)):
        if space.placement == "stage_suffix":
            arch, base = space.largest(), LARGEST
        while legal := [m for m in moves(space, arch) if isinstance(m, Localise) and m.stage == index]:
            arch, place = legal[0].apply(arch), position_name(index, legal[0].position)
            yield Variant(("localise", place, ""), arch, base)
            base = ("localise", place, "")
            yield from (_exchanged(move, arch, base) for move in exchanges(space, arch) if move.place == place)


def _exchanged(move: Exchange, arch: Architecture, base: Key) -> Variant:
    return Variant(("exchange", move.place, choice_text(move.block)), move.apply(arch), base)


class Evaluator:
    """Evaluates members of a supernet that differ from one of them, computing what they share with that one once.

    That one is walked once, operation by operation; a variant branches off at its first operation that
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
    def evaluate(self, variants: Sequence[Variant], base: Architecture | None = None) -> Iterator[Evaluation]:
        """One evaluation a variant, in the order in which the walk reaches them; `base` itself first.

        `base` is the member that is walked, and that standard errors refer to: the largest one by default.
        """
        base = base or self.supernet.space.largest()
        network = self.supernet.extract(base)
        baseline = self._judge(network, 0, (self.calibration, self.images))
        branches: dict[int, list[Variant]] = {}
        for variant in variants:
            first = _first_difference(base, variant.arch)
            if first == len(base.operations()):
                yield self._evaluation(variant.key, baseline, baseline)
            else:
                branches.setdefault(first, []).append(variant)
        walked = (self.calibration, self.images)
        for index, block in enumerate(network.children()):
            for variant in branches.get(index, []):
                branch = self.supernet.extract(variant.arch)
                yield self._evaluation(variant.key, self._judge(branch, index, walked), baseline)
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

    def _evaluation(self, key: Key, judged: Tensor, baseline: Tensor) -> Evaluation:
        right = (judged.argmax(dim=1) == self.labels).double()
        difference = right - (baseline.argmax(dim=1) == self.labels).double()
        error = 100 * float(difference.std(unbiased=False)) / len(right) ** 0.5
        loss = float(F.nll_loss(judged, self.labels))
        return Evaluation(*key, 100 * float(right.mean()), loss, error)

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
    evaluator: Evaluator, wanted: Sequence[Variant], journal: Path, *,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
) -> list[Evaluation]:  # fmt: skip
    """Evaluates all variants, each written to `journal` at once; what a killed run measured is not measured again."""
    rows = {row.key: row for row in _read(journal)}
    rest = [variant for variant in wanted if variant.key not in rows]
    if rest:
        for row in evaluator.evaluate(rest):
            rows[row.key] = row
            _append(journal, row)
            report(len(rows), len(wanted), row)
    return [rows[variant.key] for variant in wanted]


def _read(journal: Path) -> list[Evaluation]:
    if not journal.exists():
        return []
    # A line that a kill cut off has no last value: its variant is measured again.
    texts = {name: str for name in ("move", "place", "choice")}
    frame = pd.read_csv(journal, dtype=texts).dropna(subset=["standard_error"])
    frame = frame.fillna(dict.fromkeys(texts, ""))
    return [Evaluation(**{str(name): value for name, value in row.items()}) for row in frame.to_dict("records")]


def _append(journal: Path, row: Evaluation) -> None:
    frame = pd.DataFrame([asdict(row)]).round(6)
    frame.to_csv(journal, mode="a", header=not journal.exists(), index=False)
