"""Operation: the unit that everything counts in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nas.specs.base import BlockSpec
from nas.specs.shape import Shape


@dataclass(frozen=True)
class Operation:
    """One child module of the network, one row of a latency table, one bar of a breakdown.

    Attributes:
        name: where it stands in the network: stem, stage2_entry, stage3_block5, stage4_flatten, head. Where a network
            has no stem of its own, the block that enters stage 1 is its stem.
        spec: kind and hyperparameters.
        input: the shape that comes in; the one that goes out follows from both.
    """

    name: str
    spec: BlockSpec
    input: Shape

    @property
    def output(self) -> Shape:
        return self.spec.output_shape(self.input)

    @property
    def macs(self) -> int:
        return self.spec.macs(self.input)

    @property
    def params(self) -> int:
        return self.spec.params(self.input)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a latency depends on: kind, hyperparameters, input shape. The name is no part of it."""
        return _key(self.spec, self.input)

    def __str__(self) -> str:
        kind, hyperparameters, shape = self.key
        return f"{kind}({hyperparameters}) on {shape}"


@lru_cache(maxsize=65536)
def _key(spec: BlockSpec, shape: Shape) -> tuple[str, str, str]:
    return spec.kind, str(spec), str(shape)
