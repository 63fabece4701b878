"""No command writes into the folder of another command's work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import nas
from nas.errors import InputError
from nas.finetune.folder import FinetuneFolder
from nas.finetune.folder import describe as describe_finetuning
from nas.supernet.checkpoint import Folder
from nas.supernet.checkpoint import describe as describe_supernet
from nas.supernet.options import Recipe

SPACE = nas.load_space("efficientformer_small")
WRITERS: dict[str, Callable[[Path], object]] = {
    "supernet.yaml": lambda folder: describe_supernet(Folder(folder), SPACE, Recipe(), {}),
    "finetune.yaml": lambda folder: describe_finetuning(
        FinetuneFolder(folder), SPACE.smallest(), {}, ""
    ),
    "export.yaml": lambda folder: nas.export(folder / "net.yaml", to="config", out=folder),
}
"""What writes into a folder, by the file that describes it there."""


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("there", ["run.yaml", "begun.yaml", "supernet.yaml", "finetune.yaml"])
def test_a_folder_of_other_work_is_refused_and_kept(
    tmp_path: Path, there: str, writer: str
) -> None:
    SPACE.smallest().save(tmp_path / "net.yaml")
    if there != writer:
        SPACE.largest().save(tmp_path / "architecture.yaml")
        (tmp_path / there).write_text("a: 1\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if there == writer:
        WRITERS[writer](tmp_path)
        return
    with pytest.raises(InputError, match=rf"holds {there} of something else.* Fix: another --out"):
        WRITERS[writer](tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
