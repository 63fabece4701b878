"""The folder of a fine-tuning: its paths, and the description by which it is resumed or refused.

`nas.finetune.run` starts a folder, `nas.finetune.result` completes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data import Splits
from nas.files import write_yaml
from nas.finetune.options import Recipe
from nas.finetune.start import Start
from nas.finetune.teacher import Teacher
from nas.runs.homes import check_free
from nas.runs.schema import (
    ARCHITECTURE_FILE,
    FINETUNE_FILE,
    IMAGES_FILE,
    WEIGHTS_FILE,
    read_trained,
)
from nas.space import Architecture, load_architecture
from nas.tasks import task_of
from nas.training.state import TrainingFolder
from nas.versions import versions

FORMAT = "nas-finetune-1"


@dataclass(frozen=True)
class FinetuneFolder(TrainingFolder):
    """The paths of a fine-tuning's folder."""

    @property
    def description(self) -> Path:
        return self.root / FINETUNE_FILE

    @property
    def architecture(self) -> Path:
        return self.root / ARCHITECTURE_FILE

    @property
    def weights(self) -> Path:
        return self.root / WEIGHTS_FILE

    @property
    def images(self) -> Path:
        return self.root / IMAGES_FILE


def describe(
    folder: FinetuneFolder, arch: Architecture, asked: Mapping[str, Any], command: str
) -> None:
    """Start a fine-tuning's folder, or check that an existing one is of the same fine-tuning.

    A folder without a saved state or a result is started again: a batch that did not fit into memory
    may be tried again with other options. Files of weights are compared by checksum and not by path,
    so that a run can be resumed in another place.

    Args:
        folder: of the fine-tuning.
        arch: the network.
        asked: everything that decides the result (`asked` below).
        command: the command line.

    Raises:
        InputError: naming the file and the first key that differs, or the file of something else that
            would be replaced.
    """
    wanted = {"format": FORMAT, **asked}
    if not folder.description.exists():
        check_free(folder.root, FINETUNE_FILE, further=(WEIGHTS_FILE,))
        if folder.architecture.exists() and load_architecture(folder.architecture) != arch:
            check_free(folder.root, FINETUNE_FILE, further=(ARCHITECTURE_FILE,))
    if not (folder.description.exists() and (folder.state.exists() or folder.weights.exists())):
        arch.save(folder.architecture)
        write_yaml(
            folder.description,
            {**wanted, "versions": versions("torch", "safetensors"), "command": command},
        )
        return
    found = read_trained(folder.description)
    remedy = ". Fix: another --out, or the options that it was started with"
    there = dict(found.data)
    # Settings that an older version did not have get their defaults.
    if isinstance(there.get("recipe"), dict):
        there["recipe"] = Recipe().to_dict() | there["recipe"]
    # The first entry that differs is named. Versions and command are not compared.
    for key, value in wanted.items():
        if _unplaced(there.get(key)) != _unplaced(value):
            difference = _difference(there.get(key), value)
            raise found.error(
                [key], f"this folder holds another fine-tuning ({difference}){remedy}"
            )
    if load_architecture(folder.architecture) != arch:
        raise found.error(
            ["architecture"], f"this folder holds the fine-tuning of another network{remedy}"
        )


def _unplaced(value: Any) -> Any:
    """Return an entry of a description without the paths of files.

    Older descriptions lack the background and the store; the fingerprint of the pixels tells them.
    """
    places = ("file", "supernet", "background", "store")
    return {k: v for k, v in value.items() if k not in places} if isinstance(value, dict) else value


def _difference(found: Any, wanted: Any) -> str:
    """Return the first difference as text; of two mappings the first entry that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        there = _unplaced(found)
        here = _unplaced(wanted)
        key = next(k for k in (*here, *there) if there.get(k) != here.get(k))
        if key == "fingerprint":
            # These change the pixels, and say more than a hash of them.
            causes = [k for k in ("store", "background") if k in found and k in wanted]
            key = next((k for k in causes if found[k] != wanted[k]), key)
        return f"{key} {found.get(key)!r} there, {wanted.get(key)!r} here"
    return f"{found!r} there, {wanted!r} here"


def asked(
    start: Start, data: Splits, recipe: Recipe, teacher: Teacher | None, new_head: bool
) -> dict[str, Any]:
    """Return everything that decides the result, as the description keeps it."""
    arch = start.network.architecture
    return {
        "architecture": {
            "name": arch.name,
            "space": arch.space,
            "resolution": list(arch.resolution),
            "params": arch.params,
            "macs": arch.macs,
        },
        "start": start.kind,
        "init": start.init,
        "new_head": new_head,
        "data": {
            "source": data.train.source,
            "images": len(data.train),
            "store": data.train.store,
            "fingerprint": data.train.fingerprint,
            "background": data.train.background,
            "held_out": len(data.held_out),
            "test": len(data.test) if data.test else 0,
            "classes": list(data.train.classes),
        },
        "recipe": recipe.to_dict(task_of(arch.head).has_maps),
        "teacher": teacher.about if teacher else None,
    }
