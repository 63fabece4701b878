"""Scores: what leaving out a block, narrowing a stage or localising an attention block costs in accuracy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from nas import resources
from nas.errors import InputError, nearest
from nas.space import Architecture, Space, Stage, load_space, space_names
from nas.specs import BlockSpec, Identity

MoveName = Literal["drop", "narrow", "localise"]


@dataclass(frozen=True)
class Score:
    """One measured move: one row of `scores.csv`.

    Attributes:
        stage: counts from 1, as in the file.
        position: counts from 1; None for a narrowed stage.
        width: the width that a stage was narrowed to; None for the other moves.
        importance: the paper's ratio of alphas, (alpha_3D + alpha_4D) / alpha_I, on the rows of dropped positions.
        accuracy_drop: points of top-1 as measured; noise can make it negative. Of a localised block it is what that
            block adds, where only the first global block may become local and one follows the other.
        standard_error: of `accuracy_drop`, in points.
        cost: points of top-1 that the search counts with.
        loss_increase: growth of the held-out cross-entropy.
    """

    move: MoveName
    stage: int
    cost: float
    position: int | None = None
    width: int | None = None
    importance: float | None = None
    accuracy_drop: float | None = None
    standard_error: float | None = None
    loss_increase: float | None = None

    @property
    def key(self) -> tuple[str, int, int | None]:
        """What was changed: the move, the stage, and the position or the width."""
        return self.move, self.stage, self.width if self.move == "narrow" else self.position


@dataclass(frozen=True)
class ScoredStage:
    """The stage that scores were measured on: its widths (ascending), its positions, and their candidates."""

    widths: tuple[int, ...]
    depth: int
    local: BlockSpec
    global_: BlockSpec | None = None


@dataclass(frozen=True)
class Scores:
    """Recorded costs of single moves, added up to the expected accuracy drop of any member of the space.

    Additive by construction: cost(arch) is the sum over its dropped positions, its localised positions and its
    narrowed stages. A dropped position counts as dropped only, whatever stood there. Widths between two measured ones
    are interpolated linearly; the largest width costs nothing.
    """

    space: str
    stages: tuple[ScoredStage, ...]
    rows: tuple[Score, ...]
    notes: tuple[str, ...] = ()
    baseline_accuracy: float | None = None
    classes: int | None = None
    resolution: tuple[int, int] | None = None
    images: int | None = None
    supernet: str | None = None
    path: str = ""
    _known: dict[tuple[int, Stage], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls, space: Space, rows: Sequence[Score], notes: Sequence[str] = (), *,
        baseline_accuracy: float | None = None, images: int | None = None, supernet: str | None = None,
    ) -> Scores:  # fmt: skip
        """Scores measured on `space`, at its resolution and number of classes."""
        classes = space.largest().classes
        return cls(space.name, scored_stages(space), tuple(rows), tuple(notes), baseline_accuracy, classes,
                   space.resolution, images, supernet)  # fmt: skip

    @property
    def provenance(self) -> str:
        """Where the scores came from, in words."""
        return "; ".join(self.notes) or "unknown"

    def cost(self, arch: Architecture) -> float:
        """Expected accuracy drop of `arch` against `space.largest()`, in points of top-1; lower is better.

        An architecture without dropped positions is placed as `Space.place` does: local blocks first, global ones last.

        Raises:
            InputError: when `arch` is no member of the scored space, or a row that it needs is missing.
        """
        if len(arch.stages) != len(self.stages):
            raise InputError(
                f"{self._where}{len(self.stages)} stages were scored, the architecture has {len(arch.stages)}"
            )
        return sum(self._stage_cost(index, stage) for index, stage in enumerate(arch.stages))

    def importance(self, stage: int, position: int) -> float:
        """The paper's importance of the MetaPath at this position (both count from 0): its alphas over identity's.

        Raises:
            InputError: when the scores carry none (they were made without a trained supernet).
        """
        row = self._row(("drop", stage + 1, position + 1))
        if row.importance is None:
            raise InputError(f"{self._where}drop of stage {stage + 1} position {position + 1} has no importance")
        return row.importance

    def check(self, space: Space) -> None:
        """Raises InputError unless the scores belong to `space` and every move within it has its cost."""
        if space.name != self.space:
            raise InputError(
                f"{self._where}scores of space '{self.space}', not of '{space.name}'; {_REMEDY.format(space.name)}"
            )
        for index, (mine, theirs) in enumerate(zip(self.stages, scored_stages(space), strict=False), start=1):
            for name in ("widths", "depth", "local", "global_"):
                if getattr(mine, name) != getattr(theirs, name):
                    raise InputError(f"{self._where}scores of another space '{self.space}': stage {index} has "
                                     f"{name.rstrip('_')} {_plain(getattr(mine, name))} there and "
                                     f"{_plain(getattr(theirs, name))} in {space.path or space.name}")  # fmt: skip
        for index, stage in enumerate(space.stages):
            positions = range(1, stage.depths[1] + 1)
            if stage.depths[0] < stage.depths[1]:
                for position in positions:
                    self._row(("drop", index + 1, position))
            if stage.global_ is not None:
                for position in positions:
                    self._row(("localise", index + 1, position))
            if len(stage.widths) > 1:
                self._row(("narrow", index + 1, stage.widths[0]))

    def save(self, folder: str | Path) -> None:
        """Writes `scores.csv` and `scores.yaml`, which `load_scores` reads."""
        from nas.search.scores_file import write_scores

        write_scores(self, Path(folder))

    @cached_property
    def _by_key(self) -> Mapping[tuple[str, int, int | None], Score]:
        return {row.key: row for row in self.rows}

    @cached_property
    def _widths(self) -> tuple[tuple[list[int], list[float]], ...]:
        """For every stage, the measured widths (ascending) and their costs, the largest at 0."""
        measured = []
        for index, stage in enumerate(self.stages, start=1):
            points = {row.width: row.cost for row in self.rows if row.move == "narrow" and row.stage == index}
            pairs = sorted((width, cost) for width, cost in {**points, stage.widths[-1]: 0.0}.items() if width)
            measured.append(([width for width, _ in pairs], [cost for _, cost in pairs]))
        return tuple(measured)

    @property
    def _where(self) -> str:
        return f"{self.path}: " if self.path else ""

    def _row(self, key: tuple[str, int, int | None]) -> Score:
        row = self._by_key.get(key)
        if row is None:
            move, stage, place = key
            raise InputError(f"{self._where}no row for move '{move}', stage {stage}, "
                             f"{'width' if move == 'narrow' else 'position'} {place}")  # fmt: skip
        return row

    def _stage_cost(self, index: int, stage: Stage) -> float:
        cost = self._known.get((index, stage))
        if cost is None:
            cost = self._known[index, stage] = self._width_cost(index, stage.width) + self._blocks_cost(index, stage)
        return cost

    def _width_cost(self, index: int, width: int) -> float:
        widths, costs = self._widths[index]
        if width not in self.stages[index].widths:
            raise InputError(f"{self._where}stage {index + 1}: width {width} is none of the scored space's")
        at = bisect_left(widths, width)
        if widths[at] == width:
            return costs[at]
        if at == 0:
            self._row(("narrow", index + 1, width))
        share = (width - widths[at - 1]) / (widths[at] - widths[at - 1])
        return costs[at - 1] + share * (costs[at] - costs[at - 1])

    def _blocks_cost(self, index: int, stage: Stage) -> float:
        scored, total = self.stages[index], 0.0
        for position, block in enumerate(self._placed(index, stage.blocks), start=1):
            if isinstance(block, Identity):
                total += self._row(("drop", index + 1, position)).cost
            elif scored.global_ is not None and block == scored.local:
                total += self._row(("localise", index + 1, position)).cost
            elif block != scored.local and block != scored.global_:
                raise InputError(
                    f"{self._where}stage {index + 1}: {block.kind}({block}) is no candidate of the scored space"
                )
        return total

    def _placed(self, index: int, blocks: tuple[BlockSpec, ...]) -> tuple[BlockSpec, ...]:
        scored = self.stages[index]
        gap = scored.depth - len(blocks)
        if gap < 0:
            raise InputError(f"{self._where}stage {index + 1}: {len(blocks)} positions, {scored.depth} were scored")
        first = next((i for i, block in enumerate(blocks) if block == scored.global_), len(blocks))
        return (*blocks[:first], *(Identity(),) * gap, *blocks[first:])


_REMEDY = "`nas train --space {}` makes scores for it, `nas search --supernet` takes them"


def _plain(value: object) -> str:
    return f"{value.kind}({value})" if isinstance(value, BlockSpec) else str(value)


def scored_stages(space: Space) -> tuple[ScoredStage, ...]:
    """What scores record of a space, to know it again."""
    return tuple(ScoredStage(stage.widths, stage.depths[1], stage.local, stage.global_) for stage in space.stages)


def default_scores(space: Space) -> Scores:
    """The recorded scores that ship with `space`. Raises InputError when there are none."""
    from nas.search.scores_file import read_scores

    known = resources.names(resources.EXPERIMENTS, "*/scores.csv")
    if space.default_scores not in known:
        there = f"names the scores '{space.default_scores}', which are not here" if space.default_scores else "has none"
        raise InputError(f"space '{space.name}' {there}; {_REMEDY.format(space.name)}")
    return read_scores(known[space.default_scores])


def load_scores(name: str | Path) -> Scores:
    """The recorded scores of a space, by the space's name or by the path of `scores.csv` or of its folder.

    Raises:
        InputError: naming file, line, column and reason, or the nearest name that exists.
    """
    from nas.search.scores_file import read_scores

    path = Path(name)
    if path.is_dir():
        return read_scores(path / "scores.csv")
    if path.suffix == ".csv" or len(path.parts) > 1:
        return read_scores(path)
    if str(name) not in space_names():
        raise InputError(
            f"no scores at '{name}': it is no file, no folder and no space{nearest(str(name), space_names())}"
        )
    return default_scores(load_space(str(name)))
