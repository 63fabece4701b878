"""The block vocabulary as torch modules, one file a block; `nas.specs` has what they are without torch."""

from __future__ import annotations

from nas.blocks.base import Axes, Block
from nas.blocks.build import build_block

__all__ = ["Axes", "Block", "build_block"]
