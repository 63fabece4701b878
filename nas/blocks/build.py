"""Building a block's module from its spec."""

from __future__ import annotations

from nas.blocks.base import Block
from nas.plugins import import_object
from nas.specs import BlockSpec, Shape


def build_block(spec: BlockSpec, shape: Shape) -> Block:
    """Return the module of a spec for inputs of this shape, freshly initialised.

    Raises:
        InputError: where the module that the spec names cannot be imported.
    """
    block: Block = import_object(f"block '{spec.kind}'", spec.module)(spec, shape)
    block.built_from = spec, shape
    return block
