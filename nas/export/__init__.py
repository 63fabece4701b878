"""From a network to the files that devices run. Imports no torch.

One file a target, named here; `nas.export.target.Target` says what it defines.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nas.errors import InputError, nearest
from nas.extras import need

if TYPE_CHECKING:
    from nas.export.target import Target

TARGETS = {
    "config": "nas.export.config",
    "torch": "nas.export.checkpoint",
    "timm": "nas.export.timm",
    "onnx": "nas.export.onnx",
    "litert": "nas.export.litert",
    "litert-int8": "nas.export.litert_int8",
    "coreml": "nas.export.coreml",
    "coreml-int8": "nas.export.coreml_int8",
}
"""Each name's module, whose `TARGET` it is."""
NEEDS: dict[str, tuple[str, ...]] = {
    "torch": ("train", "torch", "safetensors"),
    "timm": ("train", "torch", "safetensors"),
    "onnx": ("onnx",),
    "litert": ("litert",),
    "litert-int8": ("litert",),
    "coreml": ("coreml",),
    "coreml-int8": ("coreml",),
}
"""The extra that a target needs, and which modules of it where not all; a target that is not here needs none."""
ALWAYS_WITH = {"torch": "config"}
"""What is of no use without another target."""


def chosen(names: Iterable[str]) -> list[str]:
    """The targets of these names in the order of TARGETS, with those that they need.

    Raises:
        InputError: for an unknown name, or none at all.
    """
    asked = set(names)
    for name in sorted(asked - TARGETS.keys()):
        raise InputError(f"--to {name}: unknown export target{nearest(name, TARGETS)}")
    if not asked:
        raise InputError(f"--to: name at least one of {', '.join(TARGETS)}")
    asked |= {ALWAYS_WITH[name] for name in asked & ALWAYS_WITH.keys()}
    return [name for name in TARGETS if name in asked]


def load_target(name: str) -> Target:
    """Return the target of a name in TARGETS.

    Raises:
        InputError: when what it needs is not installed.
    """
    if name in NEEDS:
        need(f"--to {name}", *NEEDS[name])
    target: Target = importlib.import_module(TARGETS[name]).TARGET
    return target
