"""`nas report`: what runs found, on one page that opens without a network, and as PNG pictures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.common import emit, next_step
from nas.report.options import ReportOptions

if TYPE_CHECKING:
    from nas.report.run import RunReport


def report(options: ReportOptions) -> None:
    """Write one HTML page of what runs found, why to believe it and how to repeat it, and PNG pictures of the same."""
    from nas.errors import InputError
    from nas.options import words
    from nas.report.page import write_comparison, write_page, write_pictures
    from nas.report.run import load_runs

    run = options.run
    folders = list(dict.fromkeys(path.resolve() for path in run))
    if len(folders) < len(run):
        raise InputError("each run once: a run folder is named twice")
    runs = [loaded for folder in run for loaded in load_runs(folder)]
    page = options.out or run[0] / ("report.html" if len(run) == 1 else "compare.html")
    if page.is_dir():
        raise InputError(f"--out {page}: is a folder; name the page, as {page / 'report.html'}")
    pictures = [picture for loaded in runs for picture in write_pictures(loaded)]
    if len(runs) > 1:
        pictures += write_comparison(runs, run[0] / "pictures")
    write_page(runs, words("report", options), page)
    following = _following(run, runs)
    emit(_document(run, runs, page, pictures, following), _text(runs, page, pictures))
    next_step(following)


def _following(folders: Sequence[Path], runs: Sequence[RunReport]) -> str:
    """The first step of the job that a run lacks, or a comparison."""
    commands = [gap.command for loaded in runs for gap in loaded.left_out if gap.command]
    return commands[0] if commands else shlex.join(["nas", "export", str(folders[0])])


def _document(
    folders: Sequence[Path], runs: Sequence[RunReport], page: Path, pictures: Sequence[Path], following: str
) -> dict[str, Any]:
    return {
        "runs": [str(folder) for folder in folders], "page": str(page), "pictures": [str(path) for path in pictures],
        "left_out": [
            {"run": loaded.name, "part": gap.part, "reason": gap.reason, "command": gap.command}
            for loaded in runs for gap in loaded.left_out
        ],
        "next": following,
    }  # fmt: skip


def _text(runs: Sequence[RunReport], page: Path, pictures: Sequence[Path]) -> str:
    lines = [f"page     {page}"]
    lines += [f"pictures {folder}" for folder in dict.fromkeys(path.parent for path in pictures)]
    for loaded in runs:
        for gap in loaded.left_out:
            lines.append(
                f"left out {loaded.name}: {gap.part}: {gap.reason}" + (f" ({gap.command})" if gap.command else "")
            )
    return "\n".join(lines)
