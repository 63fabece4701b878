"""A stand-in for the accuracy law, for benchmarks of searches: the deficits of shared/accuracy.md, stages by number.

    scores = StandIn(nas.load_space("swiftformer"))

It has what makes a law hard to search by (costs of whole stages, entries that cost by what comes in, members whose cost
is known by itself, a penalty outside of the data), and none of its fitted figures. Benchmarks only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from pathlib import Path

from nas.accuracy import Accuracy, Scores
from nas.space import Architecture, Space
from nas.specs import BlockSpec, Identity

A = (0.61, 1.25, 4.09, 3.18)
"""Points of a stage of width W with N blocks of expansion 4."""
W = (48, 96, 192, 384)
N = (3, 3, 9, 4)
B = (0.0, 0.0, 0.5, 1.18)
"""Points of a stage without attention, halved by every H attention blocks."""
H = (1, 1, 2, 1)
RATIOS = (1.3, 2.6)
"""Widths of neighbouring stages in the data; what lies outside costs PENALTY points per natural logarithm."""
PENALTY = 4.0


@dataclass(frozen=True)
class StandIn(Scores):
    """Costs of stages by width, depth, expansion and attention, each as a deficit against the largest member."""

    scored: Space
    penalty: float = 0.0
    notes: tuple[str, ...] = ("stand-in for the accuracy law",)
    path: str = ""

    def cost(self, arch: Architecture) -> float:
        """Return the sum of the parts less that of the largest member; of a published member half a point less."""
        placed = self.scored.place(arch)
        parts = self._parts(placed)
        return parts - 0.5 if self._is_published(placed) else parts

    def accuracy(self, arch: Architecture) -> Accuracy:
        """Return 84 % less the cost."""
        return Accuracy(84.0 - self.cost(arch), 0.6, "top1", self.provenance)

    def check(self, space: Space) -> None:
        """Accept every space."""

    def save(self, folder: str | Path) -> None:
        """Raise NotImplementedError: nobody keeps these."""
        raise NotImplementedError

    def cautious(self) -> Scores:
        """Return the same with the penalty."""
        return replace(self, penalty=PENALTY)

    def difference_error(self, arch: Architecture, other: Architecture) -> float:
        """Return a tenth of the difference, and 0.02 points where there is any."""
        difference = abs(self.cost(arch) - self.cost(other))
        return 0.1 * difference + (0.02 if arch.compact().stages != other.compact().stages else 0.0)

    def exceptions(self) -> tuple[Architecture, ...]:
        """Return the published members."""
        return tuple(self.scored.published.values())

    def entry_cost(self, index: int, entry: BlockSpec, before: int) -> float:
        """Return the penalty for widths that no published network has next to one another."""
        if not index or not self.penalty:
            return 0.0
        ratio = int(entry.width) / before  # type: ignore[attr-defined]
        return self.penalty * max(0.0, log(RATIOS[0] / ratio), log(ratio / RATIOS[1]))

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        """Return how many blocks, how many attention blocks, and four times the expansion."""
        if isinstance(block, Identity):
            return 0, 0, 0
        expansion = float(getattr(block, "expansion", 4.0))
        return 1, int(self.scored.stages[index].kind(block) == "global"), round(4 * expansion)

    def stage_cost(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        """Return the deficit of a stage less that of the largest member's."""
        return self._deficit(index, width, counts) - self._largest[index]

    def _deficit(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        blocks, attention, expansions = counts
        size = (width / W[index]) ** -0.556 * (blocks / N[index]) ** -0.4 * (expansions / (16 * blocks)) ** -0.254
        return float(A[index] * size + B[index] * 2 ** (-attention / H[index]))

    def _parts(self, placed: Architecture) -> float:
        total = 0.0
        before = 0
        for index, stage in enumerate(placed.stages):
            sums = zip(*(self.counts(index, block) for block in stage.blocks), strict=True)
            total += self.stage_cost(index, stage.width, tuple(map(sum, sums)))
            total += self.entry_cost(index, stage.entry, before or stage.width)
            before = stage.width
        return total

    def _is_published(self, placed: Architecture) -> bool:
        compact = placed.compact()
        return (compact.stem, compact.stages) in self._published

    @cached_property
    def _published(self) -> frozenset[object]:
        return frozenset((arch.stem, arch.compact().stages) for arch in self.scored.published.values())

    @cached_property
    def _largest(self) -> tuple[float, ...]:
        """The deficit of each stage of the largest member."""
        largest = self.scored.largest()
        sums = [
            tuple(map(sum, zip(*(self.counts(index, block) for block in stage.blocks), strict=True)))
            for index, stage in enumerate(largest.stages)
        ]
        return tuple(self._deficit(i, s.width, c) for i, (s, c) in enumerate(zip(largest.stages, sums, strict=True)))
