"""Print the numbers of a readable house as JSON: floors, files, lines, comments, docstrings.

    python scripts/house.py [--installed] [--times]

The numbers are signs and not aims: compare them from one change to the next. `--times` runs three
commands in processes of their own and prints the medians in seconds. `--installed` measures the
folder of packages that this interpreter uses, in MB.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nas"
LONGEST_LINE = 100
COMMANDS = {
    "nas --help": ["--help"],
    "nas spaces": ["spaces"],
    "nas search": ["search", "--space", "efficientformer", "--device", "iphone12"],
}
REPEATS = 5

sys.path.insert(0, str(ROOT / "tests"))
from floors import arrows_up, circles, imports  # noqa: E402


def main() -> None:
    """Print the numbers that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", action="store_true", help="time three commands")
    parser.add_argument("--installed", action="store_true", help="measure the installed packages")
    chosen = parser.parse_args()
    figures = {**floors(), **files(), **lines(), **docstrings()}
    if chosen.times:
        figures["seconds"] = {name: seconds(command) for name, command in COMMANDS.items()}
    if chosen.installed:
        packages = Path(sysconfig.get_path("purelib"))
        figures["installed_mb"] = round(size_of(packages) / 1e6)
        figures["torch_installed"] = (packages / "torch").is_dir()
    print(json.dumps(figures, indent=2))


def sources() -> Iterator[tuple[Path, str]]:
    """Yield every file of the package with its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.read_text(encoding="utf-8")


def floors() -> dict[str, Any]:
    """Return the number of import cycles between packages, and of imports from a higher floor."""
    found = imports(PACKAGE)
    return {"circles": len(circles(found)), "imports_up": len(arrows_up(found))}


def files() -> dict[str, Any]:
    """Return the number of files and their lengths."""
    lengths = sorted((len(text.splitlines()), path) for path, text in sources())
    longest, where = lengths[-1]
    return {
        "files": len(lengths),
        "median_lines": statistics.median(length for length, _ in lengths),
        "longest_lines": longest,
        "longest_file": str(where.relative_to(ROOT)),
    }


def lines() -> dict[str, Any]:
    """Return the shares of pragmas, long lines, comments and packed assignments."""
    counts: Counter[str] = Counter()
    for _, text in sources():
        for line in text.splitlines():
            counts["lines"] += 1
            counts["long"] += len(line) > LONGEST_LINE
            counts["fmt_skip"] += "# fmt: skip" in line
            counts["comments"] += line.lstrip().startswith("#")
            counts["code"] += bool(line.strip())
        for node in ast.walk(ast.parse(text)):
            counts["assignments"] += isinstance(node, (ast.Assign, ast.AnnAssign))
            counts["packed"] += packs(node)
    return {
        "lines": counts["lines"],
        "fmt_skip": counts["fmt_skip"],
        "long_lines_percent": percent(counts["long"], counts["lines"]),
        "packed_assignments_percent": percent(counts["packed"], counts["assignments"]),
        "comments_per_1000_lines": round(1000 * counts["comments"] / counts["code"], 1),
    }


def packs(node: ast.AST) -> bool:
    """Return whether a statement assigns several values in one line: `a, b = 1, 2`."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    return any(isinstance(target, ast.Tuple) for target in node.targets)


def docstrings() -> dict[str, Any]:
    """Return how many functions have a docstring, and how many of those begin with a verb.

    A verb is an imperative ("Return ..."), as style.md asks for. No dictionary is available, so a
    word counts as one where it is listed; see `begins_with_verb`.
    """
    texts: list[str] = []
    functions = 0
    for _, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions += 1
                documented = ast.get_docstring(node)
                texts += [documented] if documented else []
    beginning = sum(begins_with_verb(text) for text in texts)
    return {
        "functions": functions,
        "documented_functions": len(texts),
        "docstrings_with_verb_percent": percent(beginning, len(texts)),
    }


IMPERATIVES = frozenset(
    (Path(__file__).with_name("imperatives.txt")).read_text(encoding="utf-8").split()
)


def begins_with_verb(text: str) -> bool:
    """Return whether a docstring's first word is in the list of imperatives beside this script."""
    first = text.split(maxsplit=1)[0].strip(".,:;`").lower()
    return first in IMPERATIVES


def percent(part: int, whole: int) -> float:
    """Return a share in percent with one digit."""
    return round(100 * part / max(whole, 1), 1)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seconds(command: list[str]) -> float:
    """Return the median wall time of a `nas` command, each run in a process of its own."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "nas", *command], check=True, capture_output=True, cwd=ROOT
        )
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    main()
