"""The floors of the house: which package stands on which floor, and who imports whom.

`tests/test_imports.py` holds them, `scripts/house.py` counts what breaks them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "passwords", "temporary", "versions"),
    (
        "extras",
        "files",
        "locks",
        "options",
        "plugins",
        "processes",
        "quantities",
        "resources",
        "signals",
    ),
    ("csv_files", "display", "journals", "option_values", "validation", "weight_files"),
    ("blocks", "data", "figures"),
    ("space", "tasks"),
    ("convert", "weights", "network", "features", "accuracy", "runs"),
    ("devices", "training"),
    ("latency", "supernet", "export"),
    ("search", "finetune"),
    ("integrations", "testing"),
    ("", "report"),
    ("cli",),
    ("__main__",),
)
"""From the lowest floor to the highest; "" is `nas/__init__.py`, the public API."""

NAMED_ARROWS: frozenset[tuple[str, str]] = frozenset(
    {
        # The names of a checkpoint's tensors are mapped onto a network's.
        ("weights", "network"),
        # A backbone is a network without its head, with weights.
        ("features", "network"),
        ("features", "weights"),
        # It may be that of a run, with the run's weights.
        ("features", "runs"),
        # `nas.report` is a name of the public API.
        ("", "report"),
    }
)
"""Imports between packages of one floor: (importing, imported). They may not form a circle."""


@dataclass(frozen=True)
class Import:
    """One import statement inside the package.

    Attributes:
        source: the importing module's parts below `nas`, as in ("search", "problem").
        target: the imported module's, or its package's where a name is imported.
        line: where it stands, as in nas/search/problem.py:12.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    line: str

    @property
    def packages(self) -> tuple[str, str]:
        """The importing and the imported package: the first part of each, "" for nas itself."""
        return (self.source or ("",))[0], (self.target or ("",))[0]


@cache
def imports(package: Path, executed: bool = False) -> list[Import]:
    """Return every import of the package's own modules: at the top, inside functions, for types.

    Args:
        executed: only those that run when their module is imported.
    """
    modules = {_parts(path, package): path for path in sorted(package.rglob("*.py"))}
    found = []
    for source, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in _executed(tree) if executed else ast.walk(tree):
            for target in _targets(node, modules):
                line = f"{path.relative_to(package.parent)}:{getattr(node, 'lineno', 0)}"
                found.append(Import(source, target, line))
    return found


def floor_of(name: str) -> int:
    """Return the number of a package's floor, 0 for the lowest.

    Raises:
        KeyError: for a package that stands on no floor: it belongs into FLOORS.
    """
    for number, names in enumerate(FLOORS):
        if name in names:
            return number
    raise KeyError(f"'{name}' stands on no floor; add it to FLOORS in tests/floors.py")


def arrows_up(found: Sequence[Import]) -> list[str]:
    """Return the imports that go to a higher floor, or to the same one by an arrow without a name."""
    wrong = []
    for one in found:
        source, target = one.packages
        if source == target:
            continue
        height = floor_of(target) - floor_of(source)
        if height > 0 or (height == 0 and (source, target) not in NAMED_ARROWS):
            wrong.append(f"{one.line} imports nas.{'.'.join(one.target)}")
    return wrong


def circles(found: Sequence[Import]) -> list[tuple[str, ...]]:
    """Return the groups of packages that import each other, directly or through others."""
    targets: dict[str, set[str]] = defaultdict(set)
    for one in found:
        source, target = one.packages
        if source != target:
            targets[source].add(target)
    reached = {name: _reachable(name, targets) for name in list(targets)}
    groups = set()
    for name in reached:
        group = {other for other in reached[name] if name in reached.get(other, ())}
        if group:
            groups.add(tuple(sorted(group)))
    return sorted(groups)


def circle_of_modules(found: Sequence[Import]) -> list[str]:
    """Return modules that import each other in a circle, each by the one before; empty if none do.

    One of them fails, or finds an unfinished module, where it is the first that a program imports.

    Args:
        found: the imports that are executed when their module is imported.
    """
    needed: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for one in found:
        # A module's packages are imported before it, where they are not being imported already.
        for length in range(1, len(one.target) + 1):
            module = one.target[:length]
            if module == one.target or module != one.source[:length]:
                needed[one.source].add(module)
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        return [".".join(("nas", *module)) for module in reversed(error.args[1])]
    return []


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: nothing inside functions, nothing for types."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from _executed(node)


def _reachable(name: str, targets: dict[str, set[str]]) -> set[str]:
    """Return all packages that a package imports, also through others."""
    reached: set[str] = set()
    waiting = list(targets.get(name, ()))
    while waiting:
        following = waiting.pop()
        if following not in reached:
            reached.add(following)
            waiting += targets.get(following, ())
    return reached


def _parts(path: Path, package: Path) -> tuple[str, ...]:
    """Return a module's dotted name below the package, as a tuple."""
    parts = path.relative_to(package).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _targets(node: ast.AST, modules: dict[tuple[str, ...], Path]) -> Iterator[tuple[str, ...]]:
    """Yield the package's own modules that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        top, *parts = name.split(".")
        if top != "nas":
            continue
        while tuple(parts) not in modules:
            # `from nas.search.problem import Found`: the last part is a name, not a module.
            parts.pop()
        yield tuple(parts)
