"""Published weights: reading checkpoint files and mapping their tensors onto a network.

How a block's tensors are called in a checkpoint stands in its own file (`Block.published`), where
the blocks stand in one in a file a family here; `LAYOUTS` lists them all.
"""

from __future__ import annotations

from nas.blocks.module import CheckpointLayout
from nas.weights.files import load_state_dict
from nas.weights.importing import LAYOUTS, import_weights

__all__ = ["LAYOUTS", "CheckpointLayout", "import_weights", "load_state_dict"]
