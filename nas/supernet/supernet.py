"""Supernet: every architecture of a space in one module."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.blocks import Block, build_block
from nas.network import Network, build
from nas.space import Architecture, Operation, Space
from nas.supernet.gumbel import GumbelSoftmax
from nas.supernet.metapath import MetaPath
from nas.supernet.slicing import Keep, group_importance, group_tensors, slice_block, strongest


class Supernet(nn.Module):
    """The space's largest network, every position a MetaPath. (B, 3, H, W) to logits as `Network` gives them.

    The blocks are those of the vocabulary, at full width; a member is a slice of them (`extract`). Nothing in a block
    knows that it stands in a supernet.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        local = space.member(
            [stage.widths[-1] for stage in space.stages], [stage.depths[1] for stage in space.stages],
            [0] * len(space.stages),
        )  # fmt: skip
        for operation in local.operations():
            candidates = self._candidates(operation)
            module = MetaPath(candidates, operation.input) if candidates else None
            self.add_module(operation.name, module or build_block(operation.spec, operation.input))

    def forward(
        self, x_bchw: Tensor, choose: GumbelSoftmax, generator: torch.Generator | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        x: Tensor = x_bchw
        for module in self.children():
            x = module(x, choose(module.alpha, generator)) if isinstance(module, MetaPath) else module(x)
        return x

    def forward_sliced(self, x_bchw: Tensor, arch: Architecture) -> Tensor | tuple[Tensor, Tensor]:
        """The output of a member with the supernet's weights, sliced on the fly; gradients reach the supernet."""
        x: Tensor = x_bchw
        for operation, wide, keep in self._slices(arch):
            narrow = build_block(operation.spec, operation.input).train(self.training)
            x = functional_call(narrow, slice_block(wide, narrow, keep), (x,)) if wide else narrow(x)
        return x

    @torch.no_grad()
    def extract(self, arch: Architecture) -> Network:
        """The member as a plain network of its own, with a copy of its weights, in the supernet's mode.

        `arch` may have another input size or number of classes' head only if built at those of the supernet;
        see `Network` for what comes back.
        """
        network = build(arch).train(self.training)
        for operation, wide, keep in self._slices(arch):
            if wide is not None:
                narrow = network.get_submodule(operation.name)
                assert isinstance(narrow, Block)
                narrow.load_state_dict(slice_block(wide, narrow, keep))
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

    @torch.no_grad()
    def channel_importance(self) -> list[Tensor]:
        """For each stage, the importance of the channels of its residual stream, over all blocks that touch it."""
        importance = []
        for index in range(len(self.space.stages)):
            tensors = group_tensors(self._entry(index), "out")
            after = self._entry(index + 1) if index + 1 < len(self.space.stages) else self._block("head")
            tensors += group_tensors(after, "in")
            for stage, _, path in self.metapaths():
                if stage == index:
                    for block in path.candidates.values():
                        assert isinstance(block, Block)
                        tensors += group_tensors(block, "out")
            importance.append(group_importance(tensors))
        return importance

    def _candidates(self, operation: Operation) -> tuple:  # type: ignore[type-arg]
        stage, _, position = operation.name.partition("_block")
        return self.space.stages[int(stage.removeprefix("stage")) - 1].candidates if position else ()

    def _slices(self, arch: Architecture) -> Iterator[tuple[Operation, Block | None, Keep]]:
        """Each operation of a member, the supernet's block that it is cut from (None for a reshape), what stays.

        The operation keeps the name it has in `arch`; where `arch` does not say which positions it left out, they are
        those that `Space.place` chooses.
        """
        self.space.validate(arch)
        importance = self.channel_importance()
        kept = [strongest(i, stage.width) for i, stage in zip(importance, arch.stages, strict=True)]
        placed = self.space.place(arch).operations()
        for operation, source in zip(arch.operations(), placed, strict=True):
            if operation.spec.kind in ("flatten", "unflatten"):
                yield operation, None, {}
                continue
            index = 0 if source.name == "stem" else len(kept) if source.name == "head" else int(source.name[5]) - 1
            keep = {"out": kept[index]} if index < len(kept) else {}
            if index:
                keep["in"] = kept[index - 1]
            yield operation, self._source(source), keep

    def _source(self, operation: Operation) -> Block:
        module = self.get_submodule(operation.name)
        if isinstance(module, MetaPath):
            module = module.candidates[operation.spec.kind]
        assert isinstance(module, Block)
        return module

    def _entry(self, index: int) -> Block:
        return self._block("stem" if index == 0 else f"stage{index + 1}_entry")

    def _block(self, name: str) -> Block:
        module = self.get_submodule(name)
        assert isinstance(module, Block)
        return module
