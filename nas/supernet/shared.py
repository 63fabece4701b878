"""The blocks of a place in the supernet: as few as hold the weights of all its candidates."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from nas.blocks import Block, build_block
from nas.specs import BlockSpec, Shape


class SharedBlocks(nn.ModuleDict):
    """One block for all candidates that differ in their width and in elastic hyperparameters only.

    They are slices of the block with the largest values. A block is called after its kind; where the candidates of one
    kind need several, the later ones have a number.
    """

    def __init__(self, candidates: Sequence[BlockSpec], shape: Shape, width: int | None = None) -> None:
        """`width` is that of the stream behind the place, where it changes there."""
        groups: dict[Hashable, list[BlockSpec]] = {}
        for spec in candidates:
            groups.setdefault(_shared(spec), []).append(spec)
        super().__init__()
        self._names: dict[Hashable, str] = {}
        for key, specs in groups.items():
            kind = specs[0].kind
            self._names[key] = name = kind if kind not in self else f"{kind}{len(self) + 1}"
            largest = _envelope(specs, width)
            self[name] = build_block(largest, replace(shape, layout=largest.layout))

    def holding(self, spec: BlockSpec) -> Block:
        """The block that holds a candidate's weights."""
        block = self[self._names[_shared(spec)]]
        assert isinstance(block, Block)
        return block

    def find(self, spec: BlockSpec) -> Block | None:
        """The block that could hold the weights of such a block, of another width perhaps; None where there is none."""
        name = self._names.get(_shared(spec))
        block = self[name] if name is not None else None
        return block if isinstance(block, Block) else None

    def blocks(self) -> list[Block]:
        return [block for block in self.values() if isinstance(block, Block)]


def _shared(spec: BlockSpec) -> Hashable:
    """What blocks that share weights have in common."""
    values = spec.hyperparameters()
    return spec.kind, tuple((name, values[name]) for name in values if name not in (*spec.elastic, "width"))


def _envelope(specs: Sequence[BlockSpec], width: int | None) -> BlockSpec:
    """The spec with the largest value of everything that has a size (on counts as larger than off)."""
    largest: dict[str, Any] = {"width": width} if width else {}
    for name, value in specs[0].hyperparameters().items():
        if (name in specs[0].elastic or name == "width") and name not in largest and not isinstance(value, str):
            largest[name] = max(spec.hyperparameters()[name] for spec in specs)
    return replace(specs[0], **largest)
