"""SwiftFormer's checkpoints, of its authors and of timm: its blocks stand where EfficientFormer's do."""

from __future__ import annotations

from torch import Tensor

from nas.specs import Operation
from nas.weights.efficientformer import official_prefixes, timm_prefixes
from nas.weights.layout import Layout


def _convert(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Layer scales (C, 1, 1) become (C,); the attention's linear layers (out, in) and w_g (C, 1) 1x1 convolutions."""
    if name.endswith("scale"):
        return value.flatten()
    if operation.spec.kind == "additive_encoder" and value.dim() == 2:
        return (value.T if name == "attention.score.weight" else value)[:, :, None, None]
    return value


def _publish(operation: Operation, name: str, value: Tensor) -> Tensor:
    """The inverse of `_convert`."""
    if name.endswith("scale"):
        return value[:, None, None]
    if operation.spec.kind == "additive_encoder" and name.startswith("attention.") and value.dim() == 4:
        flat = value[:, :, 0, 0]
        return flat.T if name == "attention.score.weight" else flat
    return value


LAYOUTS = (
    Layout("swiftformer/official", official_prefixes, convert=_convert, publish=_publish),
    Layout("swiftformer/timm", timm_prefixes, convert=_convert, publish=_publish),
)
