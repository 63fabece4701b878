"""Export of a network to the files that devices run: the registry of targets. Imports no torch.

Each target is one file, named here, that defines a `nas.export.target.Target`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nas import plugins
from nas.errors import InputError, nearest
from nas.extras import need

if TYPE_CHECKING:
    from nas.export.target import Target

TARGETS: plugins.Registry[Target] = plugins.Registry(
    plugins.TARGETS,
    {
        "config": "nas.export.targets.config:TARGET",
        "torch": "nas.export.targets.torch:TARGET",
        "timm": "nas.export.targets.timm:TARGET",
        "onnx": "nas.export.targets.onnx:TARGET",
        "litert": "nas.export.targets.litert:TARGET",
        "litert-int8": "nas.export.targets.litert_int8:TARGET",
        "coreml": "nas.export.targets.coreml:TARGET",
        "coreml-int8": "nas.export.targets.coreml_int8:TARGET",
        "coreml-palette6": "nas.export.targets.coreml_palette:SIX",
        "coreml-palette4": "nas.export.targets.coreml_palette:FOUR",
    },
    kind="nas.export.target:Target",
)
"""Export targets by the name that --to takes.

A further target is one file, named here or by an entry point of another package.
"""
NEEDS: dict[str, tuple[str, ...]] = {
    "torch": ("train", "torch", "safetensors"),
    "timm": ("train", "torch", "safetensors"),
    "onnx": ("onnx",),
    "litert": ("litert",),
    "litert-int8": ("litert",),
    "coreml": ("coreml",),
    "coreml-int8": ("coreml",),
    "coreml-palette6": ("coreml",),
    "coreml-palette4": ("coreml",),
}
"""Extra that a target needs, followed by the modules of it that it needs (without any: all).

Other targets need none.
"""
ALWAYS_WITH = {"torch": "config"}
"""Target to the target that is always exported with it: weights need their architecture."""


def chosen(names: Iterable[str]) -> list[str]:
    """Return these targets and those that they need, in the order of TARGETS.

    Raises:
        InputError: for an unknown name, or for no name.
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
        InputError: when an extra that it needs is not installed.
    """
    if name in NEEDS:
        need(f"--to {name}", *NEEDS[name])
    return TARGETS[name]
