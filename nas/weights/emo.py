"""Where EMO's blocks stand in the checkpoints of its authors; timm has no EMO."""

from __future__ import annotations

from collections.abc import Sequence

from nas.specs import Operation
from nas.weights.layout import Layout


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """The block that enters a stage is its first one; the stem is stage 0, norm and classifier stand at the top."""
    prefixes, stage, index = {"stem": "stage0", "head": ""}, 0, 0
    for operation in operations:
        if operation.name in prefixes:
            continue
        if operation.name.endswith("_entry"):
            stage, index = stage + 1, 0
        prefixes[operation.name] = f"stage{stage}.{index}"
        index += 1
    return prefixes


LAYOUTS = (Layout("emo/official", _official),)
