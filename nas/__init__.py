"""Public Python API: hardware-aware architecture search over mobile hybrid transformers.

Every name is imported when it is first used, so names that need no torch import none.
"""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from nas.errors import InputError, NasError
from nas.extras import bind_function as _bind_function
from nas.extras import lazy_names as _lazy_names
from nas.extras import missing_extra as _missing_extra
from nas.versions import __version__

if _TYPE_CHECKING:
    from nas.accuracy import Accuracy, Scores, load_scores
    from nas.blocks import Operation
    from nas.devices import Device
    from nas.export.command import export
    from nas.export.run import Exported
    from nas.features import Backbone, backbone
    from nas.finetune import Finetuned, finetune
    from nas.latency import Estimate, LatencyTable, load_table
    from nas.latency.command import Profiled, profile
    from nas.network import Network, build
    from nas.report.command import Report, report
    from nas.search import Found, search
    from nas.space import Architecture, Space, load_architecture, load_space
    from nas.supernet.command import Trained, score, train
    from nas.weights import import_weights

__all__ = [
    "Accuracy",
    "Architecture",
    "Backbone",
    "Device",
    "Estimate",
    "Exported",
    "Finetuned",
    "Found",
    "InputError",
    "LatencyTable",
    "NasError",
    "Network",
    "Operation",
    "Profiled",
    "Report",
    "Scores",
    "Space",
    "Trained",
    "__version__",
    "backbone",
    "build",
    "export",
    "finetune",
    "import_weights",
    "load_architecture",
    "load_scores",
    "load_space",
    "load_table",
    "profile",
    "report",
    "score",
    "search",
    "train",
]

# The module that defines each public name. `_lazy_names` imports it at the first access, so that
# `import nas` and `nas --help` stay fast and import no torch.
_HOMES = {
    "nas.accuracy": ("Accuracy", "Scores", "load_scores"),
    "nas.devices": ("Device",),
    "nas.export.command": ("export",),
    "nas.export.run": ("Exported",),
    "nas.features": ("Backbone", "backbone"),
    "nas.finetune": ("Finetuned", "finetune"),
    "nas.latency": ("Estimate", "LatencyTable", "load_table"),
    "nas.latency.command": ("Profiled", "profile"),
    "nas.network": ("Network", "build"),
    "nas.report.command": ("Report", "report"),
    "nas.search": ("Found", "search"),
    "nas.space": ("Architecture", "Operation", "Space", "load_architecture", "load_space"),
    "nas.supernet.command": ("Trained", "score", "train"),
    "nas.weights": ("import_weights",),
}
_FUNCTIONS_NAMED_AS_PACKAGES = ("export", "finetune", "report", "search")

_get, _names = _lazy_names(__name__, _HOMES, always=("InputError", "NasError", "__version__"))

# Python binds a package to its name in its parent once, at the first import. So these packages are
# imported here, which is cheap as their names are lazy, and unbound. No later `import
# nas.search.engines.exact` can then replace the function by the package.
for _name in _FUNCTIONS_NAMED_AS_PACKAGES:
    _importlib.import_module(f"{__name__}.{_name}")
    del globals()[_name]


def __getattr__(name: str) -> _Any:
    try:
        value = _get(name)
    except ImportError as error:
        missing = _missing_extra(error, f"nas.{name}")
        if missing is None:
            raise
        raise missing from error
    # `nas.search` is now a function, yet `nas.search.engines` must still resolve: `bind_function`
    # gives the function the attributes of its package.
    if name in _FUNCTIONS_NAMED_AS_PACKAGES:
        _bind_function(f"{__name__}.{name}", value)
    return value


def __dir__() -> list[str]:
    return _names()
