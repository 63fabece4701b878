"""Published weights: reads checkpoint files and maps their tensors onto a network.

A block has the names of its tensors in checkpoints (`Block.published`), and a family's module has
the layouts of its checkpoints. `LAYOUTS` lists all layouts.
"""

from __future__ import annotations

from nas.blocks.module import CheckpointLayout
from nas.weights.files import load_state_dict
from nas.weights.importing import LAYOUTS, import_weights

__all__ = ["LAYOUTS", "CheckpointLayout", "import_weights", "load_state_dict"]
