"""Supernet: every architecture of a space in one module.

`nas.supernet.train` trains it, `nas.supernet.checkpoint` stores it and cuts members out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
    caller,
    first,
    group_order,
    group_tensors,
    inner_orders,
    slice_block,
)

Run = Callable[[Tensor], Any]
"""A function that runs one operation on its input."""


@dataclass(frozen=True)
class Frame:
    """One way through the supernet at full depth.

    Attributes:
        arch: the operations, with a local block at every position.
        chosen: for each position by name, one candidate per role: local, and global where there is
            one.
    """

    arch: Architecture
    chosen: dict[str, Blocks]


class Supernet(nn.Module):
    """The space's largest network, every position a MetaPath.

    It maps images (B, 3, H, W) to logits, as `Network` does. Its blocks are those of the
    vocabulary, at full width; a member is a slice of them (`extract`). No block depends on the
    supernet.
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
        """Return the logits of the mixture that `choose` draws.

        Args:
            x_bchw: images.
            choose: gives the weights of each position's candidates.
            generator: of the noise in `choose`.
            widths: of the stages, in channels; by default the largest.
            pick: takes one candidate of each place and role, by default the largest.
        """
        frame = self._frame(widths or [stage.widths[-1] for stage in self.space.stages], pick)
        kept = self._kept(frame.arch)
        drawn = self._weights(choose, generator)

        def call(operation: Operation, x: Any) -> Any:
            module = self.get_submodule(operation.name)
            keep = self._keep(operation, kept)
            if not isinstance(module, MetaPath):
                return self._call(self._source(operation), operation.spec, operation.input, keep, x)

            def candidate(spec: BlockSpec, x: Tensor) -> Tensor:
                return self._call(module.candidates.holding(spec), spec, operation.input, keep, x)

            weights, values = drawn[operation.name]
            return module(x, weights, frame.chosen[operation.name], candidate, values)

        return run(frame.arch.operations(), x_bchw, call)  # type: ignore[no-any-return]

    def _weights(
        self, choose: GumbelSoftmax, generator: torch.Generator | None
    ) -> dict[str, tuple[Tensor, list[float]]]:
        """Return the weights of every position's candidates, and the same as numbers, by name."""
        drawn = {name: choose(alpha, generator) for name, alpha in self.alphas().items()}
        # One transfer for all positions: each would make a GPU wait for the host.
        values = torch.cat(list(drawn.values())).tolist()
        found = {}
        for name, weights in drawn.items():
            found[name] = (weights, values[: len(weights)])
            values = values[len(weights) :]
        return found

    def forward_sliced(self, x_bchw: Tensor, arch: Architecture) -> Tensor | tuple[Tensor, Tensor]:
        """Return the output of a member, its weights sliced on the fly.

        Gradients reach the supernet.
        """
        slices = {operation: (wide, keep) for operation, wide, keep in self._slices(arch)}

        def call(operation: Operation, x: Any) -> Any:
            wide, keep = slices[operation]
            # A reshape has no weights to slice, so it is simply built.
            return self._call(
                wide or build_block(operation.spec, operation.input),
                operation.spec,
                operation.input,
                keep,
                x,
            )

        return run(arch.operations(), x_bchw, call)  # type: ignore[no-any-return]

    def sliced(self, arch: Architecture) -> list[tuple[Operation, Callable[[], Run]]]:
        """Return each operation of a member, and a function that cuts its weights out.

        That function returns the one that runs the operation. Weights of the full width are not
        copied.
        """
        return [
            (operation, partial(self._run, operation, wide, keep))
            for operation, wide, keep in self._slices(arch)
        ]

    @torch.no_grad()
    def extract(self, arch: Architecture) -> Network:
        """Return a member as a network of its own, with a copy of its weights.

        It is in training mode when the supernet is.

        Raises:
            ValueError: when `arch` is not a member of the space.
        """
        # On the meta device no memory and no initial values are spent on weights that are assigned
        # below.
        with torch.device("meta"):
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
        """Return the block at the place `name` that holds the weights of `spec`, or None."""
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
        """Return which channels stay when a stage is narrowed, ranked at the first call.

        Later changes of the weights do not change it; `rank_channels` does.
        """
        if self._ranking is None:
            self.rank_channels()
        assert self._ranking is not None
        return self._ranking

    @torch.no_grad()
    def rank_channels(self) -> None:
        """Rank the channels again, after the weights have changed."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        streams = [STEM] if self.space.stems else []
        streams += [Place.whole(index) for index in range(len(self.space.stages))]
        self._ranking = Ranking(
            {str(stream): self._stream_order(stream) for stream in streams},
            {block: inner_orders(block) for block in blocks},
        )

    def ranking_tensors(self) -> dict[str, Tensor]:
        """Return the ranking as tensors by name, for a saved state; empty before the first one."""
        if self._ranking is None:
            return {}
        names = {module: name for name, module in self.named_modules()}
        tensors = {f"stream.{name}": order for name, order in self._ranking.streams.items()}
        for block, groups in self._ranking.inner.items():
            tensors |= {f"inner.{names[block]}:{group}": order for group, order in groups.items()}
        return tensors

    def restore_ranking(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the ranking that `ranking_tensors` returned; do nothing where there is none."""
        if not tensors:
            return
        device = next(self.parameters()).device
        orders = {name: order.to(device) for name, order in tensors.items()}
        streams = {
            name.removeprefix("stream."): order
            for name, order in orders.items()
            if name.startswith("stream.")
        }
        inner: dict[Block, dict[str, Tensor]] = {
            module: {} for module in self.modules() if isinstance(module, Block)
        }
        for name, order in orders.items():
            if name.startswith("inner."):
                module, _, group = name.removeprefix("inner.").rpartition(":")
                block = self.get_submodule(module)
                assert isinstance(block, Block)
                inner[block][group] = order
        self._ranking = Ranking(streams, inner)

    def _place(self, operation: Operation, largest: Architecture) -> nn.Module:
        """Return the module of a place: a block, blocks that share, or a MetaPath."""
        place = Place.parse(operation.name)
        if place.part == "block" and place.stage is not None:
            choices = self.space.stages[place.stage]
            return MetaPath(choices.local, choices.global_, operation.input)
        candidates = self._candidates(place)
        if len(candidates) < 2:
            return build_block(operation.spec, operation.input)
        # The blocks write a stream of the largest width. A head writes none: its own sizes count.
        width = operation.output.channels if place.part != "head" else None
        if place.part == "stem" and self.space.stems:
            width = max(stem.width for stem in self.space.stems)
        return SharedBlocks(candidates, operation.input, width)

    def _candidates(self, place: Place) -> Blocks:
        """Return the candidates of a stem, an entry or a head; () for a change of layout."""
        if place.part == "head":
            return self.space.heads
        if place.part == "stem" and self.space.stems:
            return self.space.stems
        if place.part in ("stem", "entry"):
            return self.space.stages[place.stage or 0].entries
        return ()

    def _stream_order(self, stream: Place) -> Tensor:
        """Return the channels (C,) of a residual stream by importance.

        All blocks that read or write the stream vote, since one choice of channels serves them all.
        """
        # The block that begins the stream, and the first that reads it without adding to it.
        source = STEM if stream.stage is None else Place.entry(stream.stage, bool(self.space.stems))
        after = 0 if stream.stage is None else stream.stage + 1
        following = Place.entry(after) if after < len(self.space.stages) else HEAD
        tensors = [pair for block in self._blocks(source) for pair in group_tensors(block, "out")]
        tensors += [
            pair for block in self._blocks(following) for pair in group_tensors(block, "in")
        ]
        # Residual blocks read and write the stream: their `in` and `out` are one group, `out`.
        for index, _, path in self.metapaths():
            if index == stream.stage:
                tensors += [
                    pair
                    for block in path.candidates.blocks()
                    for pair in group_tensors(block, "out")
                ]
        # A head of dense prediction reads the earlier stages, too, by their names. Other heads have
        # no such group and add nothing.
        if following != HEAD:
            tensors += [
                pair for block in self._blocks(HEAD) for pair in group_tensors(block, str(stream))
            ]
        return group_order(tensors)

    def _blocks(self, place: Place) -> list[Block]:
        """Return the blocks at a place that is not a position."""
        module = self.get_submodule(str(place))
        if isinstance(module, SharedBlocks):
            return module.blocks()
        assert isinstance(module, Block)
        return [module]

    def _frame(self, widths: Sequence[int], pick: Pick) -> Frame:
        """Return the way through the supernet at these widths, with the candidates of `pick`."""
        depths = [stage.depths[1] for stage in self.space.stages]
        # Two members name the candidates of both roles: one has a local block at every position,
        # the other a global block wherever the space allows one.
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
        """Yield each operation of a member, the block that it is cut from, and the kept channels.

        The block is None for a reshape. The operation keeps its name in `arch`. Where `arch` does
        not name the positions that it left out, they are those that `Space.place` chooses.
        """
        self.space.validate(arch)
        kept = self._kept(arch)
        # The operations in the same order, under the names of their places in the supernet.
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
        """Return the channels that stay of an operation's input and output streams."""
        place = Place.parse(operation.name)
        if place.part == "head":
            # Every head reads the last stage as `in`; dense prediction reads the others by name.
            return {"in": kept[str(Place.whole(len(self.space.stages) - 1))], **kept}
        if place.stage is None:
            # A stem reads pixels, which are never cut.
            return {"out": kept[str(STEM if self.space.stems else Place.whole(0))]}
        out = kept[str(place.stream)]
        # The first stage reads the stem's stream, which is its own where the stem has none.
        if place.stage == 0:
            return {"out": out, "in": kept[str(STEM)] if self.space.stems else out}
        return {"out": out, "in": kept[str(Place.whole(place.stage - 1))]}

    def _call(self, block: Block, spec: BlockSpec, shape: Shape, keep: Keep, x: Tensor) -> Tensor:
        """Return the output of a spec's slice of a block."""
        # A position's shape is that of a map; a candidate on tokens gets the same as tokens.
        shape = replace(shape, layout=spec.layout)
        inner = self.ranking().inner.get(block, {})
        return caller(block, spec, shape, keep, inner)(x)  # type: ignore[return-value]

    def _run(self, operation: Operation, wide: Block | None, keep: Keep) -> Run:
        """Return a function that runs an operation of a member by its slice of a block."""
        if wide is None:  # a reshape has no weights
            return build_block(operation.spec, operation.input).eval()
        inner = self.ranking().inner.get(wide, {})
        return caller(wide, operation.spec, operation.input, keep, inner)

    def _source(self, operation: Operation) -> Block:
        """Return the block that an operation of a frame, or of a placed member, is cut from."""
        module = self.get_submodule(operation.name)
        if isinstance(module, MetaPath):
            module = module.candidates
        block = module.holding(operation.spec) if isinstance(module, SharedBlocks) else module
        assert isinstance(block, Block)
        return block
