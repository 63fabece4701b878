"""Supernet: every architecture of a space in one module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas.blocks import BlockSpec, Operation, Shape
from nas.blocks.build import build_block
from nas.blocks.module import Block
from nas.network import Network, build, run
from nas.space import Architecture, Space
from nas.space.candidates import Blocks, Pick, most_macs
from nas.space.place import HEAD, STEM, Place
from nas.supernet.choices import GumbelSoftmax, MetaPath, SharedBlocks
from nas.supernet.slicing import (
    Keep,
    Ranking,
    call_sliced,
    first,
    group_order,
    group_tensors,
    inner_orders,
    slice_block,
)


@dataclass(frozen=True)
class Frame:
    """One way through the supernet at full depth: the operations, a local block at every position,
    and for each position the candidate that stands for each of its roles."""

    arch: Architecture
    chosen: dict[str, Blocks]


class Supernet(nn.Module):
    """The space's largest network, every position a MetaPath. (B, 3, H, W) to logits as `Network`
    gives them.

    The blocks are those of the vocabulary, at full width; a member is a slice of them (`extract`).
    Nothing in a block knows that it stands in a supernet.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self._ranking: Ranking | None = None
        largest = space.largest()
        for operation in self._frame(
            [stage.widths[-1] for stage in space.stages], most_macs
        ).arch.operations():
            self.add_module(operation.name, self._place(operation, largest))

    def forward(
        self,
        x_bchw: Tensor,
        choose: GumbelSoftmax,
        generator: torch.Generator | None = None,
        widths: Sequence[int] | None = None,
        pick: Pick = most_macs,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits of the mixture that `choose` draws, at these stage widths (the largest by
        default).

        `pick` takes one candidate of each place and role, by default the largest.
        """
        frame = self._frame(widths or [stage.widths[-1] for stage in self.space.stages], pick)
        kept = self._kept(frame.arch)

        def call(operation: Operation, x: Any) -> Any:
            module = self.get_submodule(operation.name)
            keep = self._keep(operation, kept)
            if not isinstance(module, MetaPath):
                return self._call(self._source(operation), operation.spec, operation.input, keep, x)

            def candidate(spec: BlockSpec, x: Tensor) -> Tensor:
                return self._call(module.candidates.holding(spec), spec, operation.input, keep, x)

            return module(
                x, choose(module.alpha, generator), frame.chosen[operation.name], candidate
            )

        return run(frame.arch.operations(), x_bchw, call)  # type: ignore[no-any-return]

    def forward_sliced(self, x_bchw: Tensor, arch: Architecture) -> Tensor | tuple[Tensor, Tensor]:
        """Return the output of a member with the supernet's weights, sliced on the fly; gradients
        reach the supernet."""
        slices = {operation: (wide, keep) for operation, wide, keep in self._slices(arch)}

        def call(operation: Operation, x: Any) -> Any:
            wide, keep = slices[operation]
            return self._call(
                wide or build_block(operation.spec, operation.input),
                operation.spec,
                operation.input,
                keep,
                x,
            )

        return run(arch.operations(), x_bchw, call)  # type: ignore[no-any-return]

    @torch.no_grad()
    def extract(self, arch: Architecture) -> Network:
        """Return the member as a plain network of its own, with a copy of its weights, in the
        supernet's mode.

        Raises:
            ValueError: when `arch` is no member of the space.
        """
        with torch.device(
            "meta"
        ):  # no memory and no initial values for weights that are assigned below
            network = build(arch).train(self.training)
        for operation, wide, keep in self._slices(arch):
            if wide is not None:
                narrow = network.get_submodule(operation.name)
                assert isinstance(narrow, Block)
                sliced = slice_block(wide, narrow, keep, self.ranking().inner[wide])
                narrow.load_state_dict(
                    {name: tensor.clone() for name, tensor in sliced.items()}, assign=True
                )
        return network

    def holding(self, name: str, spec: BlockSpec) -> Block | None:
        """Return the block at the place of this name that has the weights of such a block, or None
        where there is none."""
        module = getattr(self, name, None)
        if isinstance(module, MetaPath):
            module = module.candidates
        if isinstance(module, SharedBlocks):
            return module.find(spec)
        alike = (
            isinstance(module, Block)
            and module.built_from is not None
            and module.built_from[0].kind == spec.kind
        )
        return module if alike else None

    def metapaths(self) -> Iterator[tuple[int, int, MetaPath]]:
        """Yield every MetaPath with its stage and position, counted from 0."""
        for index, stage in enumerate(self.space.stages):
            for position in range(stage.depths[1]):
                module = self.get_submodule(str(Place.block(index, position)))
                assert isinstance(module, MetaPath)
                yield index, position, module

    def alphas(self) -> dict[str, Tensor]:
        """Return the architecture parameters by position name."""
        return {
            str(Place.block(stage, position)): path.alpha
            for stage, position, path in self.metapaths()
        }

    def ranking(self) -> Ranking:
        """Return which channels stay when a stage is narrowed; made from the weights when it is
        first needed."""
        if self._ranking is None:
            self.rank_channels()
        assert self._ranking is not None
        return self._ranking

    @torch.no_grad()
    def rank_channels(self) -> None:
        """Rank the channels anew, after the weights have changed."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        streams = [STEM] if self.space.stems else []
        streams += [Place.whole(index) for index in range(len(self.space.stages))]
        self._ranking = Ranking(
            {str(stream): self._stream_order(stream) for stream in streams},
            {block: inner_orders(block) for block in blocks},
        )

    def _place(self, operation: Operation, largest: Architecture) -> nn.Module:
        """Return the module of a place: a block, blocks that share, or a MetaPath."""
        place = Place.parse(operation.name)
        if place.part == "block" and place.stage is not None:
            choices = self.space.stages[place.stage]
            return MetaPath(choices.local, choices.global_, operation.input)
        candidates = self._candidates(place)
        if len(candidates) < 2:
            return build_block(operation.spec, operation.input)
        width = operation.output.channels if place.part != "head" else None
        if place.part == "stem" and self.space.stems:
            width = max(stem.width for stem in self.space.stems)
        return SharedBlocks(candidates, operation.input, width)

    def _candidates(self, place: Place) -> Blocks:
        """Return the candidates of a place that is not a position; none for a change of layout."""
        if place.part == "head":
            return self.space.heads
        if place.part == "stem" and self.space.stems:
            return self.space.stems
        if place.part in ("stem", "entry"):
            return self.space.stages[place.stage or 0].entries
        return ()

    def _stream_order(self, stream: Place) -> Tensor:
        """Return the channels of a residual stream (the stem's or a stage's) by importance, over
        all blocks that touch it."""
        source = STEM if stream.stage is None else Place.entry(stream.stage, bool(self.space.stems))
        after = 0 if stream.stage is None else stream.stage + 1
        following = Place.entry(after) if after < len(self.space.stages) else HEAD
        tensors = [pair for block in self._blocks(source) for pair in group_tensors(block, "out")]
        tensors += [
            pair for block in self._blocks(following) for pair in group_tensors(block, "in")
        ]
        for index, _, path in self.metapaths():
            if index == stream.stage:
                tensors += [
                    pair
                    for block in path.candidates.blocks()
                    for pair in group_tensors(block, "out")
                ]
        if following != HEAD:  # one that takes the maps of all stages
            tensors += [
                pair for block in self._blocks(HEAD) for pair in group_tensors(block, str(stream))
            ]
        return group_order(tensors)

    def _blocks(self, place: Place) -> list[Block]:
        module = self.get_submodule(str(place))
        if isinstance(module, SharedBlocks):
            return module.blocks()
        assert isinstance(module, Block)
        return [module]

    def _frame(self, widths: Sequence[int], pick: Pick) -> Frame:
        depths = [stage.depths[1] for stage in self.space.stages]
        none, most = self.space.attention_extremes()
        arch = self.space.member(widths, depths, none, pick=pick)
        with_global = self.space.member(widths, depths, most, pick=pick)
        chosen = {
            str(Place.block(index, position)): (local, *((global_,) if choice.global_ else ()))
            for index, choice in enumerate(self.space.stages)
            for position, (local, global_) in enumerate(
                zip(arch.stages[index].blocks, with_global.stages[index].blocks, strict=True)
            )
        }
        return Frame(arch, chosen)

    def _slices(self, arch: Architecture) -> Iterator[tuple[Operation, Block | None, Keep]]:
        """Yield each operation of a member, the supernet's block that it is cut from (None for a
        reshape), what stays.

        The operation keeps the name it has in `arch`; where `arch` does not say which positions it
        left out, they are those that `Space.place` chooses.
        """
        self.space.validate(arch)
        kept = self._kept(arch)
        placed = self.space.place(arch).operations()
        for operation, source in zip(arch.operations(), placed, strict=True):
            wide = None if operation.spec.changes_layout else self._source(source)
            yield operation, wide, self._keep(source, kept)

    def _kept(self, arch: Architecture) -> dict[str, Tensor]:
        """Return the channels of every residual stream that stay, by the stream's name."""
        streams = self.ranking().streams
        widths = {str(Place.whole(index)): width for index, width in enumerate(arch.widths)}
        if arch.stem is not None:
            widths[str(STEM)] = arch.stem.width
        return {stream: first(order, widths[stream]) for stream, order in streams.items()}

    def _keep(self, operation: Operation, kept: dict[str, Tensor]) -> Keep:
        """Return the channels that stay on the way into and out of an operation, by its name."""
        place = Place.parse(operation.name)
        if place.part == "head":
            return {"in": kept[str(Place.whole(len(self.space.stages) - 1))], **kept}
        if place.stage is None:
            return {"out": kept[str(STEM if self.space.stems else Place.whole(0))]}
        out = kept[str(place.stream)]
        if place.stage == 0:
            return {"out": out, "in": kept[str(STEM)] if self.space.stems else out}
        return {"out": out, "in": kept[str(Place.whole(place.stage - 1))]}

    def _call(self, block: Block, spec: BlockSpec, shape: Shape, keep: Keep, x: Tensor) -> Tensor:
        shape = replace(shape, layout=spec.layout)
        inner = self.ranking().inner.get(block, {})
        return call_sliced(block, spec, shape, keep, inner, x)  # type: ignore[return-value]

    def _source(self, operation: Operation) -> Block:
        """Return the block that an operation of a frame or of a placed member is cut from."""
        module = self.get_submodule(operation.name)
        if isinstance(module, MetaPath):
            module = module.candidates
        block = module.holding(operation.spec) if isinstance(module, SharedBlocks) else module
        assert isinstance(block, Block)
        return block
