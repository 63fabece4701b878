"""Lazy names of a package: each is imported at its first use, so importing the package is cheap.

Its callers are `nas` and the packages that are functions of its API (`nas.search`,
`nas.finetune`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.extras import missing_extra


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]], always: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package.

    Args:
        package: its `__name__`.
        homes: the names that each module defines.
        always: public names that the package itself defines.
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(modules[name]), name)
        except ImportError as error:
            raise missing_extra(error, f"{package}.{name}") or error from None
        # Python asks `__getattr__` only for names that the module lacks, so this is the first
        # access only.
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted([*modules, *always])

    return get, names


def bind_function(package: str, function: Callable[..., Any]) -> None:
    """Give a function with the name of a package the attributes of that package, too.

    `import nas.search.engines.exact as exact`, `mock.patch("nas.search.engines.exact.solve")` and
    `nas.search.engines.exact` ask the attribute `search` of `nas` for its attribute `engines`. With
    the package's namespace as its `__dict__` the function has that attribute. It stays a plain
    function: it is pickled, inspected and type-checked as one.
    """
    function.__dict__ = sys.modules[package].__dict__
