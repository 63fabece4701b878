"""The block vocabulary as torch modules, one file a block; `nas.specs` has what they are without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nas.blocks.base import Axes, Block
from nas.blocks.conv_embedding import ConvEmbeddingBlock
from nas.blocks.conv_stem import ConvStemBlock
from nas.blocks.mb3d import MB3DBlock
from nas.blocks.mb4d import MB4DBlock
from nas.blocks.reshape import FlattenBlock, UnflattenBlock
from nas.blocks.token_head import TokenHeadBlock
from nas.errors import InputError
from nas.specs import BlockSpec, Shape

MODULES: dict[str, Callable[[Any, Shape], Block]] = {
    "conv_stem": ConvStemBlock,
    "conv_embedding": ConvEmbeddingBlock,
    "mb4d": MB4DBlock,
    "mb3d": MB3DBlock,
    "flatten": FlattenBlock,
    "unflatten": UnflattenBlock,
    "token_head": TokenHeadBlock,
}


def build_block(spec: BlockSpec, shape: Shape) -> Block:
    """The module of a spec for inputs of this shape, freshly initialised."""
    if spec.kind not in MODULES:
        raise InputError(f"block kind '{spec.kind}' has no module in nas.blocks.MODULES")
    return MODULES[spec.kind](spec, shape)


__all__ = ["MODULES", "Axes", "Block", "build_block"]
