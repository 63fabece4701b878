"""Where EfficientFormer's blocks stand in the checkpoints of its authors and of timm."""

from __future__ import annotations

from collections.abc import Sequence

from nas.specs import Operation
from nas.weights.layout import Layout


def official_prefixes(operations: Sequence[Operation]) -> dict[str, str]:
    """`network` alternates stages (0, 2, 4, 6) and embeddings (1, 3, 5); the stem and the head stand at the top."""
    return _prefixes(operations, stem="patch_embed", entry="network.{before}", block="network.{stage}.{index}")


def timm_prefixes(operations: Sequence[Operation]) -> dict[str, str]:
    return _prefixes(
        operations, stem="stem", entry="stages.{number}.downsample", block="stages.{number}.blocks.{index}"
    )


def _prefixes(operations: Sequence[Operation], stem: str, entry: str, block: str) -> dict[str, str]:
    """Blocks are counted from 0 in their stage; the change of layout counts as one, so that those behind it shift."""
    prefixes, number, index = {"stem": stem, "head": ""}, 0, 0
    for operation in operations:
        if operation.name in prefixes:
            continue
        if operation.name.endswith("_entry"):
            number, index = number + 1, 0
            prefixes[operation.name] = entry.format(number=number, before=2 * number - 1)
        else:
            prefixes[operation.name] = block.format(number=number, stage=2 * number, index=index)
            index += 1
    return prefixes


LAYOUTS = (
    Layout("efficientformer/official", official_prefixes, ignored=("attention_bias_idxs",)),
    Layout("efficientformer/timm", timm_prefixes, ignored=("attention_bias_idxs",)),
)
