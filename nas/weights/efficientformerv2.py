"""Where EfficientFormerV2's blocks stand in the checkpoints of its authors and of timm."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nas.specs import Operation
from nas.weights.layout import Layout


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """`network` alternates stages (0, 2, 4, 6) and embeddings (1, 3, 5); the stem and the head stand at the top."""
    return _prefixes(operations, stem="patch_embed", entry="network.{before}", block="network.{stage}.{index}")


def _timm(operations: Sequence[Operation]) -> dict[str, str]:
    return _prefixes(
        operations, stem="stem", entry="stages.{number}.downsample", block="stages.{number}.blocks.{index}"
    )


def _prefixes(operations: Sequence[Operation], stem: str, entry: str, block: str) -> dict[str, str]:
    """Stages and blocks are counted from 0."""
    prefixes, number, index = {"stem": stem, "head": ""}, 0, 0
    for operation in operations:
        if operation.name.endswith("_entry"):
            number, index = number + 1, 0
            prefixes[operation.name] = entry.format(number=number, before=2 * number - 1)
        elif operation.name not in prefixes:
            prefixes[operation.name] = block.format(number=number, stage=2 * number, index=index)
            index += 1
    return prefixes


def _flat_scales(operation: Operation, name: str, value: Tensor) -> Tensor:
    """The authors' layer scales are (C, 1, 1), ours and timm's (C,)."""
    return value.flatten() if name.endswith("scale") else value


def _high_scales(operation: Operation, name: str, value: Tensor) -> Tensor:
    """The inverse of `_flat_scales`."""
    return value[:, None, None] if name.endswith("scale") else value


LAYOUTS = (
    Layout("efficientformerv2/official", _official, ("attention_bias_idxs",), _flat_scales, _high_scales),
    Layout("efficientformerv2/timm", _timm, ignored=("attention_bias_idxs",)),
)
