"""Folders that commands write into; none takes the folder of another command's work.

Trainings, fine-tunings and exports write files of the same names as searches do.
"""

from __future__ import annotations

from pathlib import Path

from nas.errors import InputError
from nas.runs.schema import BEGUN_FILE, FINETUNE_FILE, RUN_FILE

SUPERNET_FILE = "supernet.yaml"
_WORKS = {
    RUN_FILE: "a search",
    BEGUN_FILE: "an unfinished search",
    SUPERNET_FILE: "a supernet",
    FINETUNE_FILE: "a fine-tuning",
}
"""What a folder holds, by the file that describes it."""


def check_free(folder: Path, own: str = "") -> None:
    """Raise InputError where a folder holds the work of another command.

    Args:
        folder: to write into.
        own: the file that describes what is written, if any.
    """
    for name, work in _WORKS.items():
        if name != own and (folder / name).is_file():
            raise InputError(
                f"--out {folder}: holds {work} ({name}), whose files would be replaced. Fix: another"
                " --out"
            )
