"""Published weights: reading checkpoint files and mapping their tensors onto a network.

The names of a block's tensors in a checkpoint stand beside the block (`Block.published`), the
layouts of a family's checkpoints in its module; `LAYOUTS` lists them all.
"""

from __future__ import annotations

from nas.blocks.module import CheckpointLayout
from nas.weights.files import load_state_dict
from nas.weights.importing import LAYOUTS, import_weights

__all__ = ["LAYOUTS", "CheckpointLayout", "import_weights", "load_state_dict"]
