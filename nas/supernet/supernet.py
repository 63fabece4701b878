"""Supernet: every architecture of a space in one module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from nas.blocks import Block, build_block
from nas.network import Network, build
from nas.space import Architecture, Operation, Space
from nas.specs import BlockSpec
from nas.supernet.gumbel import GumbelSoftmax
from nas.supernet.metapath import MetaPath
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


class Supernet(nn.Module):
    """The space's largest network, every position a MetaPath. (B, 3, H, W) to logits as `Network` gives them.

    The blocks are those of the vocabulary, at full width; a member is a slice of them (`extract`). Nothing in a block
    knows that it stands in a supernet.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self._ranking: Ranking | None = None
        for operation in self._frame([stage.widths[-1] for stage in space.stages]):
            candidates = self._candidates(operation)
            module = MetaPath(candidates, operation.input) if candidates else None
            self.add_module(operation.name, module or build_block(operation.spec, operation.input))

    def forward(
        self, x_bchw: Tensor, choose: GumbelSoftmax, generator: torch.Generator | None = None,
        widths: Sequence[int] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        """Logits of the mixture that `choose` draws, at these stage widths (the largest by default)."""
        x: Tensor = x_bchw
        if widths is None:
            for module in self.children():
                x = module(x, choose(module.alpha, generator)) if isinstance(module, MetaPath) else module(x)
            return x
        kept = self._kept(widths)
        for operation in self._frame(widths):
            module, keep = self.get_submodule(operation.name), self._keep(operation, kept)
            if isinstance(module, MetaPath):
                sliced = lambda block, spec, x, o=operation, k=keep: self._call(block, spec, o, k, x)  # noqa: E731
                x = module(x, choose(module.alpha, generator), sliced)
            else:
                x = self._call(module, operation.spec, operation, keep, x)
        return x

    def forward_sliced(self, x_bchw: Tensor, arch: Architecture) -> Tensor | tuple[Tensor, Tensor]:
        """The output of a member with the supernet's weights, sliced on the fly; gradients reach the supernet."""
        x: Tensor = x_bchw
        for operation, wide, keep in self._slices(arch):
            x = self._call(wide or build_block(operation.spec, operation.input), operation.spec, operation, keep, x)
        return x

    @torch.no_grad()
    def extract(self, arch: Architecture) -> Network:
        """The member as a plain network of its own, with a copy of its weights, in the supernet's mode.

        Raises:
            ValueError: when `arch` is no member of the space.
        """
        with torch.device("meta"):  # no memory and no initial values for weights that are assigned below
            network = build(arch).train(self.training)
        for operation, wide, keep in self._slices(arch):
            if wide is not None:
                narrow = network.get_submodule(operation.name)
                assert isinstance(narrow, Block)
                sliced = slice_block(wide, narrow, keep, self.ranking().inner[wide])
                narrow.load_state_dict({name: tensor.clone() for name, tensor in sliced.items()}, assign=True)
        return network

    def metapaths(self) -> Iterator[tuple[int, int, MetaPath]]:
        """Every MetaPath with its stage and position, counted from 0."""
        for index, stage in enumerate(self.space.stages):
            for position in range(stage.depths[1]):
                module = self.get_submodule(f"stage{index + 1}_block{position + 1}")
                assert isinstance(module, MetaPath)
                yield index, position, module

    def alphas(self) -> dict[str, Tensor]:
        """The architecture parameters by position name."""
        return {f"stage{s + 1}_block{p + 1}": path.alpha for s, p, path in self.metapaths()}

    def ranking(self) -> Ranking:
        """Which channels stay when a stage is narrowed; made from the weights when it is first needed."""
        if self._ranking is None:
            self.rank_channels()
        assert self._ranking is not None
        return self._ranking

    @torch.no_grad()
    def rank_channels(self) -> None:
        """Ranks the channels anew, after the weights have changed."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        self._ranking = Ranking(
            [self._stream_order(index) for index in range(len(self.space.stages))],
            {block: inner_orders(block) for block in blocks},
        )

    def _stream_order(self, index: int) -> Tensor:
        """The channels of a stage's residual stream by importance, over all blocks that touch it."""
        following = f"stage{index + 2}_entry" if index + 1 < len(self.space.stages) else "head"
        tensors = group_tensors(self._block("stem" if index == 0 else f"stage{index + 1}_entry"), "out")
        tensors += group_tensors(self._block(following), "in")
        for stage, _, path in self.metapaths():
            if stage == index:
                for block in path.candidates.values():
                    assert isinstance(block, Block)
                    tensors += group_tensors(block, "out")
        return group_order(tensors)

    def _frame(self, widths: Sequence[int]) -> tuple[Operation, ...]:
        """The operations at full depth, a local block at every position."""
        depths = [stage.depths[1] for stage in self.space.stages]
        return self.space.member(widths, depths, [0] * len(depths)).operations()

    def _candidates(self, operation: Operation) -> tuple[BlockSpec, ...]:
        stage, _, position = operation.name.partition("_block")
        return self.space.stages[int(stage.removeprefix("stage")) - 1].candidates if position else ()

    def _slices(self, arch: Architecture) -> Iterator[tuple[Operation, Block | None, Keep]]:
        """Each operation of a member, the supernet's block that it is cut from (None for a reshape), what stays.

        The operation keeps the name it has in `arch`; where `arch` does not say which positions it left out, they are
        those that `Space.place` chooses.
        """
        self.space.validate(arch)
        kept = self._kept(arch.widths)
        placed = self.space.place(arch).operations()
        for operation, source in zip(arch.operations(), placed, strict=True):
            reshape = operation.spec.kind in ("flatten", "unflatten")
            yield operation, None if reshape else self._source(source), self._keep(source, kept)

    def _kept(self, widths: Sequence[int]) -> list[Tensor]:
        return [first(order, width) for order, width in zip(self.ranking().streams, widths, strict=True)]

    def _keep(self, operation: Operation, kept: Sequence[Tensor]) -> Keep:
        """The channels that stay on the way into and out of an operation, by its name."""
        if operation.name == "stem":
            return {"out": kept[0]}
        if operation.name == "head":
            return {"in": kept[-1]}
        index = int(operation.name.removeprefix("stage").partition("_")[0]) - 1
        return {"out": kept[index], "in": kept[max(index - 1, 0)]}

    def _call(self, block: nn.Module, spec: BlockSpec, operation: Operation, keep: Keep, x: Tensor) -> Tensor:
        assert isinstance(block, Block)
        shape = replace(operation.input, layout=spec.layout)
        inner = self.ranking().inner.get(block, {})
        return call_sliced(block, spec, shape, keep, inner, x)  # type: ignore[return-value]

    def _source(self, operation: Operation) -> Block:
        module = self.get_submodule(operation.name)
        return module.candidates[operation.spec.kind] if isinstance(module, MetaPath) else self._block(operation.name)  # type: ignore[return-value]

    def _block(self, name: str) -> Block:
        module = self.get_submodule(name)
        assert isinstance(module, Block)
        return module
