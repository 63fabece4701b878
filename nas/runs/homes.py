"""Folders that commands write into; none takes the folder of another command's work.

Trainings, fine-tunings and exports write files of the same names as searches do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas.errors import InputError
from nas.runs.schema import BEGUN_FILE, FINETUNE_FILE, RUN_FILE, SUPERNET_FILE

_WORKS = (RUN_FILE, BEGUN_FILE, SUPERNET_FILE, FINETUNE_FILE)
"""Files that describe what a command made."""


def check_free(folder: Path, own: str = "", further: Sequence[str] = ()) -> None:
    """Raise InputError where a folder holds the work of another command.

    Args:
        folder: to write into.
        own: the file that describes what is written, if any.
        further: names of files that are of something else too.
    """
    there = next(
        (name for name in (*_WORKS, *further) if name != own and (folder / name).exists()), None
    )
    if there is not None:
        raise InputError(
            f"{folder}: holds {there} of something else, whose files would be replaced. Fix: another"
            " --out"
        )
