"""A space as a fixed list of integer variables, for Optuna's samplers; the study engines call it.

Every setting of the variables is a member, so the rules of the space hold by construction:

- A stage's depth variable says how many of its positions are kept. Rank variables say which: those
  of the lowest ranks, ties by position.
- One threshold divides the positions into local ones before it and global ones from it on. Each
  stage has one, or the network has, where global blocks may only be its last.
- Each position has a candidate variable for either role. The role decides which of the two is read.
- A candidate that does not fit its stage's width stands for the most similar one that does.

So the variables are the same for every member. Samplers that cross members (NSGA-II) or model
several variables jointly (TPE) need that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from nas.blocks import BlockSpec, Identity
from nas.space import Architecture, Space, Stage
from nas.space.candidates import ROLES, Role, StageSpace
from nas.space.place import HEAD, STEM, Place

Setting = Mapping[str, int]


@dataclass(frozen=True)
class Variable:
    """An integer variable from `low` to `high`, both included.

    Attributes:
        ordered: whether neighbouring values have similar meanings; otherwise they are categories.
    """

    name: str
    low: int
    high: int
    ordered: bool


class Encoding:
    """The encoding of a space's members as settings of variables.

    Attributes:
        space: the members' space.
        variables: those with more than one value, in the order of the network.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.variables: tuple[Variable, ...] = tuple(v for v in self._all() if v.low < v.high)
        self._fixed = {v.name: v.low for v in self._all() if v.low == v.high}

    def decode(self, setting: Setting) -> Architecture:
        """Return the member of a setting, with identity at dropped positions.

        Variables with a single value may be left out.
        """
        space = self.space
        values = {**self._fixed, **setting}
        stem = space.stems[values[str(STEM)]] if space.stems else None
        stages = tuple(self._stage(index, values) for index in range(len(space.stages)))
        return Architecture(
            space.name, space.resolution, stages, space.heads[values[str(HEAD)]], "", stem
        )

    def encode(self, arch: Architecture) -> dict[str, int]:
        """Return a setting that `decode` turns into this member.

        Raises:
            ValueError: `arch` is not a member of the space.
        """
        self.space.validate(arch)
        arch = self.space.place(arch)
        values = {str(HEAD): self.space.heads.index(arch.head)}
        if arch.stem is not None:
            values[str(STEM)] = self.space.stems.index(arch.stem)
        first: int | None = None
        for index, (space, stage) in enumerate(zip(self.space.stages, arch.stages, strict=True)):
            values |= self._values(index, stage)
            # The threshold is the first global position; behind the last one where there is none.
            kinds = [space.kind(block) for block in stage.blocks]
            at = kinds.index("global") if "global" in kinds else None
            values[_name(index, "attention")] = len(kinds) if at is None else at
            # The network's threshold counts positions through all stages.
            if first is None and at is not None:
                first = sum(earlier.depths[1] for earlier in self.space.stages[:index]) + at
        values["attention"] = self._positions if first is None else first
        # Both kinds of thresholds were set; the space has variables for one of them.
        names = {variable.name for variable in self.variables}
        return {name: value for name, value in values.items() if name in names}

    @property
    def _positions(self) -> int:
        return sum(stage.depths[1] for stage in self.space.stages)

    def _all(self) -> Iterator[Variable]:
        space = self.space
        if space.stems:
            yield Variable(str(STEM), 0, len(space.stems) - 1, False)
        for index, stage in enumerate(space.stages):
            yield from self._of_stage(index, stage)
        if space.placement == "network_suffix":
            # Stages without global candidates lie before the threshold whatever its value, so it
            # begins behind the last of them.
            local_only = [i for i in range(len(space.stages)) if not space.has_global(i)]
            before = space.stages[: local_only[-1] + 1] if local_only else ()
            # Behind a frozen stage with a global block every block is global.
            frozen = [i for i, stage in enumerate(space.stages) if stage.fixed_global]
            until = space.stages[: frozen[0] + 1] if frozen else space.stages
            yield Variable(
                "attention",
                sum(stage.depths[1] for stage in before),
                sum(stage.depths[1] for stage in until),
                True,
            )
        yield Variable(str(HEAD), 0, len(space.heads) - 1, False)

    def _of_stage(self, index: int, stage: StageSpace) -> Iterator[Variable]:
        if stage.fixed is not None:
            return
        least, most = stage.depths
        yield Variable(_name(index, "entry"), 0, len(stage.entries) - 1, False)
        yield Variable(_name(index, "width"), 0, len(stage.widths) - 1, True)
        yield Variable(_name(index, "depth"), least, most, True)
        if self.space.placement == "stage_suffix":
            yield Variable(_name(index, "attention"), 0 if stage.global_ else most, most, True)
        for position in range(most):
            # In a stage of fixed depth every position is kept, and ranks have one value.
            yield Variable(_rank(index, position), 0, most - 1 if least < most else 0, True)
            for role in ROLES:
                if stage.candidates(role):
                    yield Variable(
                        _choice(index, position, role), 0, len(stage.candidates(role)) - 1, False
                    )

    def _stage(self, index: int, values: Setting) -> Stage:
        stage = self.space.stages[index]
        if stage.fixed is not None:
            return stage.fixed
        most = self.space.stages[index].depths[1]
        width = stage.widths[values[_name(index, "width")]]
        entry = replace(stage.entries[values[_name(index, "entry")]], width=width)
        # Ties of ranks go to the earlier position, so every setting keeps exactly `depth` of them.
        ranked = sorted(
            range(most), key=lambda position: (values[_rank(index, position)], position)
        )
        kept = set(ranked[: values[_name(index, "depth")]])
        if self.space.placement == "network_suffix":
            # At most 0 where the whole stage is global, at least its length where it is all local.
            threshold = values["attention"] - sum(
                earlier.depths[1] for earlier in self.space.stages[:index]
            )
        else:
            threshold = values[_name(index, "attention")]
        blocks: list[BlockSpec] = []
        for position in range(most):
            role: Role = "global" if position >= threshold else "local"
            if position in kept:
                block = stage.candidates(role)[values[_choice(index, position, role)]]
                blocks.append(self.space.fitted(index, block, width))
            else:
                blocks.append(Identity())
        return Stage(entry, tuple(blocks))

    def _values(self, index: int, stage: Stage) -> dict[str, int]:
        """Return the variables of a placed stage without its threshold; unused ones are 0."""
        space = self.space.stages[index]
        # A space lists its entries at the largest width.
        last = self.space.stages[index].widths[-1]
        entry = replace(stage.entry, width=last)
        values = {
            _name(index, "entry"): space.entries.index(entry),
            _name(index, "width"): space.widths.index(stage.width),
            _name(index, "depth"): stage.depth,
        }
        for position, block in enumerate(stage.blocks):
            kind = space.kind(block)
            # Two ranks suffice to say which positions are kept: the lowest and the highest.
            values[_rank(index, position)] = space.depths[1] - 1 if kind == "identity" else 0
            for role in ROLES:
                values[_choice(index, position, role)] = (
                    space.candidates(role).index(block) if role == kind else 0
                )
        return values


def _name(index: int, what: str) -> str:
    return f"{Place.whole(index)}_{what}"


def _rank(index: int, position: int) -> str:
    return f"{Place.block(index, position)}_rank"


def _choice(index: int, position: int, role: Role) -> str:
    return f"{Place.block(index, position)}_{role}"
