"""`nas report`: write the results of runs as one HTML page, readable offline, and PNG pictures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.output import emit, next_step
from nas.report.options import ReportOptions

if TYPE_CHECKING:
    from nas.report.run import RunReport


def report(options: ReportOptions) -> None:
    """Run `nas report`: write one HTML page on runs, and its pictures as PNG files."""
    from nas.report.command import perform

    made = perform(options)
    following = _following(options.run, made.runs)
    emit(
        _document(options.run, made.runs, made.page, made.pictures, following),
        _text(made.runs, made.page, made.pictures),
    )
    next_step(following)


def _following(folders: Sequence[Path], runs: Sequence[RunReport]) -> str:
    """Return the command that makes the first part that a run lacks, or else `nas export`."""
    commands = [gap.command for loaded in runs for gap in loaded.left_out if gap.command]
    return commands[0] if commands else shlex.join(["nas", "export", str(folders[0])])


def _document(
    folders: Sequence[Path],
    runs: Sequence[RunReport],
    page: Path,
    pictures: Sequence[Path],
    following: str,
) -> dict[str, Any]:
    """Return the report's files and missing parts as plain data, for --json."""
    return {
        "runs": [str(folder) for folder in folders],
        "page": str(page),
        "pictures": [str(path) for path in pictures],
        "left_out": [
            {"run": loaded.name, "part": gap.part, "reason": gap.reason, "command": gap.command}
            for loaded in runs
            for gap in loaded.left_out
        ],
        "next": following,
    }


def _text(runs: Sequence[RunReport], page: Path, pictures: Sequence[Path]) -> str:
    lines = [f"page     {page}"]
    lines += [f"pictures {folder}" for folder in dict.fromkeys(path.parent for path in pictures)]
    for loaded in runs:
        for gap in loaded.left_out:
            lines.append(
                f"left out {loaded.name}: {gap.part}: {gap.reason}"
                + (f" ({gap.command})" if gap.command else "")
            )
    return "\n".join(lines)
