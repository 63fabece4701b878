"""Space: the set of architectures that a search may choose from. Engines and commands call it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from nas.blocks import BlockSpec, EntrySpec, HeadSpec, Identity, Shape
from nas.display import frame, html_table, shortened
from nas.errors import InputError, check_count, check_type
from nas.files import path_of
from nas.space.architecture import STRIDE, Architecture, Stage, with_classes
from nas.space.candidates import (
    Blocks,
    Pick,
    Placement,
    Role,
    Spec,
    StageSpace,
    block_names,
    choices_text,
    fewest_macs,
    first_listed,
    in_turn,
    likeness,
    most_macs,
    range_text,
    widened,
)
from nas.space.counting import attention_counts, count_members
from nas.space.fit import misfit, refusal
from nas.space.place import HEAD, STEM, Place

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "nas-space-1"
MEMBER_COLUMNS = ("name", "params", "macs", "widths", "depths", "resolution")
"""Columns of `Space.to_frame`."""


@dataclass(frozen=True)
class Space:
    """A set of architectures: stages with their choices, and the published members.

    `load_space` makes one from a YAML file. Positions count from 0 in the API and from 1 in names.
    At every place (the stem, a stage's entry, a position, the head) a member has one of the place's
    candidates. At a position these are the ones that fit the stage's width.

    Attributes:
        name: name of the space.
        resolution: height and width of the input, in pixels.
        stages: choices of each stage.
        heads: candidates for the head.
        stems: candidates for the block before stage 1; empty where the entry of stage 1 takes the
            image.
        placement: where global blocks may be.
        paper: reference of the family.
        default_scores: name of recorded scores that the space has instead of the accuracy law.
        recipes: how published members were trained, by the activation of their blocks ("" for any);
            the names are those of `nas.accuracy.law`.
        path: file that the space was read from; empty where there is none.
        published: published members by name.
        dense: published networks of dense prediction by name: members of the space with another
            head and input size. `at` and `with_head` leave them as they are.
    """

    name: str
    resolution: tuple[int, int]
    stages: tuple[StageSpace, ...]
    heads: tuple[HeadSpec, ...]
    stems: tuple[EntrySpec, ...] = ()
    placement: Placement = "stage_suffix"
    paper: str = ""
    default_scores: str | None = None
    recipes: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    published: Mapping[str, Architecture] = field(default_factory=dict)
    dense: Mapping[str, Architecture] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = f"{self.resolution[0]}x{self.resolution[1]}"
        widths = ", ".join(range_text(stage.widths) for stage in self.stages)
        depths = ", ".join(range_text(stage.depths) for stage in self.stages)
        members = shortened(f"published: {', '.join(self.published) or 'none'}", 160)
        return f"Space({self.name!r}, {size}, widths {widths}, depths {depths}, {members})"

    def to_frame(self) -> pd.DataFrame:
        """Return the published members as a DataFrame, one row per member.

        Parameters and MACs are whole numbers.
        """
        return frame(self._member_rows(), MEMBER_COLUMNS)

    def _member_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "params": arch.params,
                "macs": arch.macs,
                "widths": arch.widths,
                "depths": arch.depths,
                "resolution": arch.resolution,
            }
            for name, arch in self.published.items()
        ]

    def _repr_html_(self) -> str:
        stages = [
            {
                "stage": index,
                "widths": range_text(stage.widths),
                "depths": range_text(stage.depths),
                "local blocks": ", ".join(dict.fromkeys(block.kind for block in stage.local)),
                "global blocks": ", ".join(dict.fromkeys(block.kind for block in stage.global_)),
            }
            for index, stage in enumerate(self.stages, start=1)
        ]
        size = f"{self.resolution[0]}x{self.resolution[1]}"
        members = html_table("Published members", self._member_rows())
        return html_table(f"Space {self.name} at {size}", stages) + members

    @property
    def classes(self) -> int:
        return self.heads[0].classes

    def member(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        attention: Sequence[int],
        name: str = "",
        pick: Pick = first_listed,
    ) -> Architecture:
        """Return the architecture with these numbers, which is not validated.

        A frozen stage is as it is, whatever its numbers.

        Args:
            widths: width of each stage, in channels.
            depths: number of blocks of each stage.
            attention: number of global blocks of each stage, which are its last ones.
            name: name of the architecture.
            pick: chooses one candidate of each place.
        """
        shape = Shape(3, *self.resolution)
        stem = pick(STEM, self.stems, shape) if self.stems else None
        shape = stem.output_shape(shape) if stem else shape
        stages = []
        for index, (space, width, depth, count) in enumerate(
            zip(self.stages, widths, depths, attention, strict=True)
        ):
            if space.fixed is not None:
                stages.append(space.fixed)
                shape = self.shape(index, space.fixed.width)
                continue
            entries = tuple(widened(entry, width) for entry in space.entries)
            entry = pick(Place.entry(index, stem is not None), entries, shape)
            shape = self.shape(index, width)
            blocks = []
            for position in range(depth):
                candidates = self.candidates(
                    index, "global" if position >= depth - count else "local", width
                )
                blocks.append(pick(Place.block(index, position), candidates, shape))
            stages.append(Stage(entry, tuple(blocks)))
        return Architecture(
            self.name, self.resolution, tuple(stages), pick(HEAD, self.heads, shape), name, stem
        )

    def largest(self) -> Architecture:
        """Return the largest member, which the supernet is built from.

        It has the largest widths and depths, global blocks wherever they are allowed, and at each
        place the candidate with the most multiply-accumulates.
        """
        return self._largest

    def smallest(self) -> Architecture:
        """Return the narrowest and shallowest member, with the smallest local blocks."""
        return self.member(
            [stage.widths[0] for stage in self.stages],
            [stage.depths[0] for stage in self.stages],
            [0] * len(self.stages),
            f"{self.name}-smallest",
            fewest_macs,
        )

    def sample(self, seed: int | random.Random) -> Architecture:
        """Return a random member.

        Widths, depths, candidates, dropped positions and numbers of global blocks are drawn
        uniformly, each by itself.

        Args:
            seed: seed of a new generator, or the generator to draw from.
        """
        if not isinstance(seed, random.Random):
            seed = check_count("seed", seed)
        rng = seed if isinstance(seed, random.Random) else random.Random(seed)
        widths = [rng.choice(stage.widths) for stage in self.stages]
        depths = [rng.randint(*stage.depths) for stage in self.stages]

        def pick(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
            return candidates[0] if len(candidates) == 1 else rng.choice(candidates)

        attention = rng.choice(list(attention_counts(self, depths)))
        arch = self.member(widths, depths, attention, pick=pick)
        stages = []
        for space, stage in zip(self.stages, arch.stages, strict=True):
            if space.fixed is not None:
                stages.append(stage)
                continue
            positions = sorted(rng.sample(range(space.depths[1]), stage.depth))
            blocks: list[BlockSpec] = [Identity()] * space.depths[1]
            for position, block in zip(positions, stage.blocks, strict=True):
                blocks[position] = block
            stages.append(replace(stage, blocks=tuple(blocks)))
        name = f"{self.name}-sample{seed}" if isinstance(seed, int) else f"{self.name}-sample"
        return replace(arch, stages=tuple(stages), name=name)

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every member once, without dropped positions."""
        for widths in product(*(stage.widths for stage in self.stages)):
            for depths in product(*(stage.possible_depths for stage in self.stages)):
                for attention in attention_counts(self, depths):
                    counts = self._choices(widths, depths, attention)
                    for chosen in product(*map(range, counts)):
                        # `in_turn` relies on `member` asking for the places in the order of
                        # `_choices`.
                        yield self.member(widths, depths, attention, pick=in_turn(chosen))

    def count(self) -> int:
        """Return the number of different networks in the space."""
        return count_members(self)

    def place(self, arch: Architecture) -> Architecture:
        """Return `arch` with a block or identity at every position of the space.

        Some architectures, such as published ones, do not say which positions are dropped. Their
        local blocks get the first positions of their stage, and their global ones the last.

        Raises:
            InputError: a stage has more positions than the space's.
        """
        stages = []
        for index, (space, stage) in enumerate(zip(self.stages, arch.stages, strict=True)):
            gap = space.depths[1] - len(stage.blocks)
            if gap < 0:
                raise InputError(
                    f"stage {index + 1}: has too many positions (got {len(stage.blocks)}, the space"
                    f" has {space.depths[1]})"
                )
            first = next(
                (i for i, b in enumerate(stage.blocks) if b in space.global_), len(stage.blocks)
            )
            padding = (Identity(),) * gap
            stages.append(
                replace(stage, blocks=stage.blocks[:first] + padding + stage.blocks[first:])
            )
        return replace(arch, stages=tuple(stages))

    def validate(self, arch: Architecture) -> None:
        """Raise ValueError with stage and reason where `arch` is not a member.

        Its input size, its number of classes and a head for another task do not matter.
        """
        check_type("arch", arch, Architecture, "nas.load_architecture")
        if len(arch.stages) != len(self.stages):
            raise ValueError(f"{len(arch.stages)} stages, the space has {len(self.stages)}")
        if arch.stem is None if self.stems else arch.stem is not None:
            raise ValueError(
                f"{'no' if arch.stem is None else 'a'} stem before stage 1, unlike the space's"
                " members"
            )
        if arch.stem is not None and arch.stem not in self.stems:
            raise ValueError(
                f"stem {arch.stem.kind}({arch.stem}) is not one of {block_names(self.stems)}"
            )
        for index, (space, stage) in enumerate(zip(self.stages, arch.stages, strict=True), start=1):
            if space.fixed is not None and not space.fixed.equals(stage):
                raise ValueError(f"stage {index}: is frozen, and has other choices here")
            if stage.width not in space.widths:
                raise ValueError(
                    f"stage {index}: width {stage.width} is not one of {choices_text(space.widths)}"
                )
            fewest, most = space.depths
            if not fewest <= stage.depth <= most or len(stage.blocks) > most:
                raise ValueError(f"stage {index}: depth {stage.depth} is outside {fewest}..{most}")
            if widened(stage.entry, space.widths[-1]) not in space.entries:
                raise ValueError(
                    f"stage {index}: entry {stage.entry.kind}({stage.entry}) is not one of"
                    f" {block_names(space.entries)}"
                )
        kinds = [self._kinds(index, stage) for index, stage in enumerate(arch.stages)]
        groups = [list(chain(*kinds))] if self.placement == "network_suffix" else kinds
        for group in groups:
            if "local" in group[group.index("global") :] if "global" in group else False:
                where = "network" if self.placement == "network_suffix" else "stage"
                raise ValueError(
                    f"global blocks must be the last of their {where}; a local one follows them"
                )

    def restricted(self, stages: Sequence[StageSpace]) -> Space:
        """Return the space with these choices of its stages; itself where they are the same.

        Published members that make another choice are left out.
        """
        if tuple(stages) == self.stages:
            return self
        space = replace(self, stages=tuple(stages), published={})
        members = {name: arch for name, arch in self.published.items() if space.contains(arch)}
        return replace(space, published=members)

    def contains(self, arch: Architecture) -> bool:
        try:
            self.validate(arch)
        except ValueError:
            return False
        return True

    def at(
        self, resolution: int | tuple[int, int] | None = None, classes: int | None = None
    ) -> Space:
        """Return the same space for another input size or another number of classes.

        Raises:
            InputError: a block of the space or a published member does not fit that size; the
                message has key and reason.
        """
        # The architecture checks the size, before anything of the space is replaced.
        size = self.largest().at(resolution, classes).resolution
        heads = self.heads
        if classes is not None:
            heads = tuple(with_classes(head, classes) for head in heads)
        members = {name: arch.at(resolution, classes) for name, arch in self.published.items()}
        sized = replace(self, resolution=size, heads=heads, published=members)
        refused = refusal(sized) if size != self.resolution else None
        if refused:
            raise InputError(
                f"resolution {size[0]}x{size[1]}: space '{self.name}', {path_of(refused[0])}:"
                f" {refused[1]}"
            )
        for name, arch in members.items():
            try:
                arch.operations()
            except InputError as error:
                raise InputError(f"resolution {size[0]}x{size[1]}: {name}: {error}") from None
        return sized

    def with_head(self, head: HeadSpec, *others: HeadSpec) -> Space:
        """Return the same space with other heads to choose from; published members get the first."""
        for each in (head, *others):
            check_type("head", each, HeadSpec)
        members = {name: replace(arch, head=head) for name, arch in self.published.items()}
        return replace(self, heads=(head, *others), published=members)

    def with_published(self, members: Mapping[str, Architecture]) -> Space:
        return replace(self, published=dict(members))

    def has_global(self, index: int) -> bool:
        """Return whether a stage, counted from 0, may have global blocks.

        Where global blocks are the last of the whole network, no stage before a frozen one with a
        local block may have any.
        """
        later = self.stages[index + 1 :] if self.placement == "network_suffix" else ()
        return bool(self.stages[index].global_) and not any(
            stage.fixed is not None and "local" in map(stage.kind, stage.fixed.blocks)
            for stage in later
        )

    def attention_extremes(self) -> list[tuple[int, ...]]:
        """Return two numbers of global blocks per stage, at full depth: none, and the maximum."""
        most = tuple(
            stage.depths[1] if self.has_global(index) else 0
            for index, stage in enumerate(self.stages)
        )
        return [(0,) * len(most), most]

    def shape(self, index: int, width: int) -> Shape:
        """Return the shape of the map inside a stage (counted from 0) of this width."""
        # The last stage has stride 32, and each earlier one half of the next.
        stride = STRIDE >> (len(self.stages) - 1 - index)
        return Shape(width, self.resolution[0] // stride, self.resolution[1] // stride)

    def candidates(self, index: int, role: Role, width: int) -> Blocks:
        """Return the candidates of a stage's positions that fit a width, by their `check`.

        Args:
            index: of the stage, counted from 0.
            role: local or global.
            width: of the stage, in channels.
        """
        fitting = self._fitting.get((index, role, width))
        if fitting is None:
            shape = self.shape(index, width)
            every = self.stages[index].candidates(role)
            every = every if role == "local" or self.has_global(index) else ()
            fitting = self._fitting[index, role, width] = tuple(
                block for block in every if not misfit(block, shape)
            )
        return fitting

    def fitted(self, index: int, block: BlockSpec, width: int) -> BlockSpec:
        """Return `block` if it fits a width of its stage, else the most similar one that fits.

        Args:
            index: of the stage, counted from 0.
            block: a candidate of the stage, or identity.
            width: of the stage, in channels.
        """
        role = self.stages[index].kind(block)
        if role == "identity":
            return block
        candidates = self.candidates(index, role, width)
        if block in candidates:
            return block
        return max(candidates, key=lambda other: likeness(block, other))

    def to_dict(self) -> dict[str, Any]:
        """Return the data of a YAML file that describes this space.

        Candidates are listed one by one. Paper, scores, recipes and published members are left out.
        """
        return {
            "format": FORMAT,
            "name": self.name,
            "resolution": list(self.resolution),
            "attention": self.placement,
            **({"stem": [stem.to_dict() for stem in self.stems]} if self.stems else {}),
            "stages": [stage.to_dict() for stage in self.stages],
            "head": [head.to_dict() for head in self.heads],
        }

    def _choices(
        self, widths: Sequence[int], depths: Sequence[int], attention: Sequence[int]
    ) -> list[int]:
        """Return the number of candidates of each place of a member, in the order of `member`."""
        choices: list[int] = []

        def note(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
            # Which candidate is returned does not matter: how many there are depends on widths and
            # roles alone.
            choices.append(len(candidates))
            return candidates[0]

        self.member(widths, depths, attention, pick=note)
        return choices

    @cached_property
    def _largest(self) -> Architecture:
        return self.member(
            [stage.widths[-1] for stage in self.stages],
            [stage.depths[1] for stage in self.stages],
            self.attention_extremes()[-1],
            f"{self.name}-largest",
            most_macs,
        )

    @cached_property
    def _fitting(self) -> dict[tuple[int, Role, int], Blocks]:
        return {}

    def _kinds(self, index: int, stage: Stage) -> list[Role]:
        """Return the roles of a stage's blocks, without identity.

        Raises:
            ValueError: a block is not a candidate, or does not fit the stage's width.
        """
        kinds = []
        for block in stage.blocks:
            try:
                kind = self.stages[index].kind(block)
            except ValueError as error:
                raise ValueError(f"stage {index + 1}: {error}") from None
            if kind == "identity":
                continue
            if block not in self.candidates(index, kind, stage.width):
                reason = misfit(block, self.shape(index, stage.width))
                raise ValueError(f"stage {index + 1}: {block.kind}({block}) does not fit: {reason}")
            kinds.append(kind)
        return kinds
