"""The block vocabulary as torch modules, one file a block; `nas.specs` has what they are without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nas.blocks.additive_encoder import AdditiveEncoderBlock
from nas.blocks.attention_ffn import AttentionFFNBlock
from nas.blocks.base import Axes, Block
from nas.blocks.conv_embedding import ConvEmbeddingBlock
from nas.blocks.conv_encoder import ConvEncoderBlock
from nas.blocks.conv_ffn import ConvFFNBlock
from nas.blocks.conv_head import ConvHeadBlock
from nas.blocks.conv_stem import ConvStemBlock
from nas.blocks.dsconv import DSConvBlock
from nas.blocks.dual_path_embedding import DualPathEmbeddingBlock
from nas.blocks.efficientvit_module import EfficientViTModuleBlock
from nas.blocks.efficientvit_stem import EfficientViTStemBlock
from nas.blocks.emo_stem import EMOStemBlock
from nas.blocks.fpn_head import FPNHeadBlock
from nas.blocks.fused_mbconv import FusedMBConvBlock, FusedMBConvDownBlock
from nas.blocks.irmb import IRMBBlock, IRMBDownBlock
from nas.blocks.map_head import MapHeadBlock
from nas.blocks.mb3d import MB3DBlock
from nas.blocks.mb4d import MB4DBlock
from nas.blocks.mbconv import MBConvBlock, MBConvDownBlock
from nas.blocks.res_block import ResBlockBlock
from nas.blocks.reshape import FlattenBlock, UnflattenBlock
from nas.blocks.token_head import TokenHeadBlock
from nas.errors import InputError
from nas.plugins import import_object
from nas.specs import BlockSpec, Shape

MODULES: dict[str, Callable[[Any, Shape], Block]] = {
    "conv_stem": ConvStemBlock,
    "conv_embedding": ConvEmbeddingBlock,
    "mb4d": MB4DBlock,
    "mb3d": MB3DBlock,
    "conv_ffn": ConvFFNBlock,
    "attention_ffn": AttentionFFNBlock,
    "dual_path_embedding": DualPathEmbeddingBlock,
    "flatten": FlattenBlock,
    "unflatten": UnflattenBlock,
    "token_head": TokenHeadBlock,
    "efficientvit_stem": EfficientViTStemBlock,
    "dsconv": DSConvBlock,
    "res_block": ResBlockBlock,
    "mbconv": MBConvBlock,
    "mbconv_down": MBConvDownBlock,
    "fused_mbconv": FusedMBConvBlock,
    "fused_mbconv_down": FusedMBConvDownBlock,
    "efficientvit_module": EfficientViTModuleBlock,
    "conv_head": ConvHeadBlock,
    "map_head": MapHeadBlock,
    "fpn_head": FPNHeadBlock,
    "emo_stem": EMOStemBlock,
    "irmb": IRMBBlock,
    "irmb_down": IRMBDownBlock,
    "conv_encoder": ConvEncoderBlock,
    "additive_encoder": AdditiveEncoderBlock,
}


def build_block(spec: BlockSpec, shape: Shape) -> Block:
    """The module of a spec for inputs of this shape, freshly initialised."""
    make = import_object(f"block '{spec.kind}'", spec.module) if spec.module else MODULES.get(spec.kind)
    if make is None:
        raise InputError(f"block kind '{spec.kind}' has no module in nas.blocks.MODULES")
    block: Block = make(spec, shape)
    block.built_from = spec, shape
    return block


__all__ = ["MODULES", "Axes", "Block", "build_block"]
