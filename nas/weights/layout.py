"""What a checkpoint layout is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nas.space import Architecture


@dataclass(frozen=True)
class Layout:
    """How some code base names the tensors of a family's networks.

    Attributes:
        name: family/code base, as in 'efficientformer/timm'; the key of `Block.published`.
        prefixes: for an architecture, the name of each operation to what its tensors' published names begin with; ''
            where they stand at the top.
        ignored: last parts of the names of tensors that hold nothing learned.
    """

    name: str
    prefixes: Callable[[Architecture], Mapping[str, str]]
    ignored: tuple[str, ...] = ()
