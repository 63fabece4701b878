"""Write the surface of the command line: a reference for people, and JSON for a test.

    python scripts/describe_cli.py           # writes both
    python scripts/describe_cli.py --check   # exits 1 where either is not what the options say

Both `docs/reference/cli.md` and `tests/cli/surface.json` come from the dataclasses of options
(`nas.options`). The surface is frozen by `tests/cli/test_surface.py`: a new option, another default
or another range is a decision, made by running this script and committing its output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nas.cli import COMMANDS
from nas.cli.options import SHARED_OPTIONS, options_class
from nas.options import Option, options_of

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference" / "cli.md"
SURFACE = ROOT / "tests" / "cli" / "surface.json"

_INTRODUCTION = """\
# Command line

This page is written by `python scripts/describe_cli.py`.

Every command takes the options below; `nas COMMAND --help` shows them, `nas --version` prints the version, and
`nas --install-completion` installs the completion of the shell.

| option | what it does |
|---|---|
{shared}
| `-h`, `--help` | Show the help and exit. |

A `--config` file is YAML with one option per line, by its long name:

```yaml
space: efficientformer
data: /data/flowers
epochs: 100
learning-rate: 5e-4
```

`nas train --config train.yaml --epochs 3` takes the rest from the file. An unknown name is refused with its line. An
option that does nothing with the others is refused by name. Exit codes: 0 done, 1 the work failed or is incomplete,
2 the input was wrong.
"""


def surface() -> dict[str, Any]:
    """Return every command's options as plain data."""
    return {
        name: [_entry(option) for option in options_of(options_class(name)).values()]
        for name in COMMANDS
    }


def _entry(option: Option) -> dict[str, Any]:
    about = option.about
    entry: dict[str, Any] = {"name": option.long, "type": option.type_text}
    if option.many:
        entry["many"] = True
    if option.required:
        entry["required"] = True
    elif option.default not in (None, ()):
        entry["default"] = option.default
    if option.choices:
        entry["choices"] = list(option.choices)
    bounds = {
        "at_least": about.at_least,
        "above": about.above,
        "at_most": about.at_most,
        "below": about.below,
    }
    entry |= {name: limit for name, limit in bounds.items() if limit is not None}
    if about.requires:
        entry["requires"] = {
            name: values if values == "any" else list(values)
            for name, values in about.requires.items()
        }
    return entry


def reference() -> str:
    """Return the reference page."""
    shared = "\n".join(f"| `--{name}` | {text} |" for name, (_, text) in SHARED_OPTIONS.items())
    return "\n".join([_INTRODUCTION.format(shared=shared), *map(_section, COMMANDS)])


def _section(name: str) -> str:
    """Return the reference of one command."""
    kind = options_class(name)
    options = options_of(kind).values()
    arguments = [option for option in options if option.about.argument]
    given = [option.long if option.required else f"[{option.long}]" for option in arguments]
    needed = [
        f"{option.long} {option.type_text}"
        for option in options
        if option.required and option not in arguments
    ]
    lines = [f"## nas {name}", "", COMMANDS[name], ""]
    lines += ["```", " ".join(["nas", name, *given, *needed, "[OPTIONS]"]), "```", ""]
    if options:
        lines += ["| option | value | default | range | what it is |", "|---|---|---|---|---|"]
        lines += [_row(option) for option in options]
    return "\n".join([*lines, ""])


def _row(option: Option) -> str:
    name = f"`{option.long}`"
    if option.kind is bool:
        name += f", `--no-{option.key}`"
    default = "required" if option.required else option.default_text
    unit = f"{option.about.unit}, " if option.about.unit else ""
    value = (option.type_text + (" ..." if option.many else "")).replace("|", " \\| ")
    cells = [
        name,
        value if option.kind is not bool else "",
        default,
        (unit + option.about.bounds).strip(", "),
    ]
    return f"| {' | '.join(cells)} | {option.about.help}{option.needs} |"


def files() -> dict[Path, str]:
    """Return what each file should hold."""
    return {REFERENCE: reference(), SURFACE: json.dumps(surface(), indent=1) + "\n"}


def main() -> None:
    """Write the files that differ; with --check only list them and exit with 1."""
    wrong = [
        path for path, text in files().items() if not path.is_file() or path.read_text() != text
    ]
    if "--check" in sys.argv[1:]:
        for path in wrong:
            print(
                f"{path.relative_to(ROOT)}: is not what the options say. Fix: python"
                " scripts/describe_cli.py"
            )
        sys.exit(bool(wrong))
    for path in wrong:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files()[path])
        print(f"{path.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
