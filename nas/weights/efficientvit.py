"""Where EfficientViT's blocks stand in the checkpoints of its authors and of timm, and how those order channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nas.specs import EfficientViTModule, EfficientViTStem, Operation
from nas.weights.layout import Layout

EPS, LARGE_EPS = 1e-5, 1e-7
"""Of all our batch norms, and of those of the published L series."""
_STACKED = ("attention.qkv.", "attention.depthwise.", "attention.grouped.")


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """The stem stands apart in the B series; in the L series it is stage 0."""
    first_spec = operations[0].spec
    large = isinstance(first_spec, EfficientViTStem) and first_spec.block == "res_block"
    stem, first = ("backbone.stages.0", 1) if large else ("backbone.input_stem", 0)
    return _prefixes(operations, stem, "backbone.stages.{stage}.op_list.{index}", first)


def _timm(operations: Sequence[Operation]) -> dict[str, str]:
    return _prefixes(operations, "stem", "stages.{stage}.blocks.{index}", first=0)


def _prefixes(operations: Sequence[Operation], stem: str, block: str, first: int) -> dict[str, str]:
    """Stages are counted from `first`, and in each of them its entry is block 0."""
    prefixes, stage, index = {"stem": stem, "head": "head"}, first - 1, 0
    for operation in operations:
        if operation.name in prefixes:
            continue
        stage, index = (stage + 1, 0) if operation.name.endswith("_entry") else (stage, index + 1)
        prefixes[operation.name] = block.format(stage=stage, index=index)
    return prefixes


def _convert(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Queries, keys and values out of their heads; and in the L series variances for our eps in place of theirs.

    The L series, which is the one with GELU, runs with an eps of 1e-7; in eval mode a batch norm depends on the sum of
    variance and eps alone.
    """
    if isinstance(operation.spec, EfficientViTModule) and name.startswith(_STACKED):
        return _unmix(value, operation.spec.head_dim)
    if name.endswith("running_var") and getattr(operation.spec, "activation", "") == "gelu_tanh":
        return value.float() + (LARGE_EPS - EPS)
    return value


def _unmix(value: Tensor, head_dim: int) -> Tensor:
    """From queries, keys and values of each head in turn, as published, to all queries, all keys, all values."""
    if len(value) % (3 * head_dim):
        return value
    return value.reshape(-1, 3, head_dim, *value.shape[1:]).transpose(0, 1).reshape(value.shape)


def _publish(operation: Operation, name: str, value: Tensor) -> Tensor:
    """The inverse of `_convert`."""
    if isinstance(operation.spec, EfficientViTModule) and name.startswith(_STACKED):
        return _mix(value, operation.spec.head_dim)
    if name.endswith("running_var") and getattr(operation.spec, "activation", "") == "gelu_tanh":
        return value.float() - (LARGE_EPS - EPS)
    return value


def _mix(value: Tensor, head_dim: int) -> Tensor:
    """The inverse of `_unmix`."""
    return value.reshape(3, -1, head_dim, *value.shape[1:]).transpose(0, 1).reshape(value.shape)


LAYOUTS = (
    Layout("efficientvit/official", _official, convert=_convert, publish=_publish),
    Layout("efficientvit/timm", _timm, convert=_convert, publish=_publish),
)
