"""Build a block's module from its spec; networks, supernets and profiling call it."""

from __future__ import annotations

from nas.blocks import BlockSpec, Shape
from nas.blocks.module import Block
from nas.errors import InputError
from nas.plugins import import_object


def build_block(spec: BlockSpec, shape: Shape) -> Block:
    """Return the module of a spec for inputs of this shape, freshly initialised.

    Raises:
        InputError: the spec names no module, or one that cannot be imported.
    """
    if not spec.module:
        raise InputError(f"block kind '{spec.kind}' has no module: it is never built")
    block: Block = import_object(f"block '{spec.kind}'", spec.module)(spec, shape)
    block.built_from = spec, shape
    return block
