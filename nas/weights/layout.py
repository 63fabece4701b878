"""What a checkpoint layout is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nas.specs import Operation


def _as_published(operation: Operation, name: str, value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Layout:
    """How some code base names the tensors of a family's networks.

    Attributes:
        name: family/code base, as in 'efficientformer/timm'; the key of `Block.published`.
        prefixes: for the operations of a network, each one's name to what its tensors' published names begin with; ''
            where they stand at the top.
        ignored: last parts of the names of tensors that hold nothing learned.
        convert: a published tensor as our block wants it, from our operation, the tensor's name within it and the
            published value; where the order of channels or the shape differs.
        publish: one of our tensors as the code base wants it, the inverse of `convert`.
    """

    name: str
    prefixes: Callable[[Sequence[Operation]], Mapping[str, str]]
    ignored: tuple[str, ...] = ()
    convert: Callable[[Operation, str, Tensor], Tensor] = _as_published
    publish: Callable[[Operation, str, Tensor], Tensor] = _as_published
