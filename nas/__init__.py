"""Hardware-aware architecture search over mobile hybrid transformers.

Everything here is loaded when it is first used, so that what needs no torch imports none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nas.errors import InputError, NasError
from nas.versions import __version__

if TYPE_CHECKING:
    from nas.accuracy import Accuracy, Scores, load_scores
    from nas.finetune import Finetuned, finetune
    from nas.latency import Estimate, LatencyTable, load_table
    from nas.network import Network, build
    from nas.search import Found, search
    from nas.space import Architecture, Operation, Space, load_architecture, load_space
    from nas.weights import import_weights

_HOME = {
    "nas.accuracy": ("Accuracy", "Scores", "load_scores"),
    "nas.finetune": ("Finetuned", "finetune"),
    "nas.latency": ("Estimate", "LatencyTable", "load_table"),
    "nas.network": ("Network", "build"),
    "nas.search": ("Found", "search"),
    "nas.space": ("Architecture", "Operation", "Space", "load_architecture", "load_space"),
    "nas.weights": ("import_weights",),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Accuracy", "Architecture", "Estimate", "Finetuned", "Found", "InputError", "LatencyTable", "NasError", "Network",
    "Operation", "Scores", "Space", "__version__", "build", "finetune", "import_weights", "load_architecture",
    "load_scores", "load_space", "load_table", "search",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nas' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
