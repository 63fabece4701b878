"""Checkpoint of a supernet: writes it, reads it, and cuts a member's weights out of it.

`nas.supernet.train` writes the folder; scoring, searches, fine-tuning and reports read it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.accuracy.recorded_file import WEIGHTS_FILE
from nas.blocks import head_from
from nas.blocks.module import resize_bias
from nas.errors import InputError, NasError
from nas.files import YamlFile, replacing, write_yaml
from nas.network import build
from nas.runs.homes import check_free
from nas.runs.schema import SUPERNET_FILE, WEIGHTS_FORMAT, SupernetFile, read_trained
from nas.space import Architecture, Space, load_space
from nas.supernet.description import trained_on, up_to_date
from nas.supernet.options import Recipe
from nas.supernet.supernet import Supernet
from nas.tasks import task_of
from nas.training.state import TrainingFolder, fill
from nas.training.state import read_tensors as read_file
from nas.validation import validated
from nas.weights.files import save_tensors

FORMAT = "nas-supernet-1"


@dataclass(frozen=True)
class Folder(TrainingFolder):
    """The paths of a supernet training's folder."""

    @property
    def description(self) -> Path:
        return self.root / SUPERNET_FILE

    @property
    def space(self) -> Path:
        return self.root / "space.yaml"

    @property
    def weights(self) -> Path:
        return self.root / WEIGHTS_FILE

    @property
    def alpha(self) -> Path:
        return self.root / "alpha.csv"

    @property
    def scores(self) -> Path:
        return self.root / "scores.csv"


def describe(
    folder: Folder,
    space: Space,
    recipe: Recipe,
    data: dict[str, Any],
    start: dict[str, str] | None = None,
    write: bool = True,
    command: str = "",
) -> None:
    """Start a training's folder, or check that an existing one is of the same training.

    A folder without a saved state or weights is started again: a batch that did not fit into memory
    may be tried again with other options.

    Args:
        folder: of the training.
        space, recipe: of the training.
        data: description of the images.
        start: description of the checkpoint that the first weights are from, if any.
        write: False only checks.
        command: the command line.

    Raises:
        InputError: naming the file and the first key that differs, or the file of something else whose
            folder it is.
    """
    wanted = {
        "format": FORMAT,
        "space": space.name,
        "resolution": list(space.resolution),
        "classes": space.classes,
        "data": data,
        "recipe": recipe.to_dict(task_of(space.heads[0]).has_maps),
        **_other_head(space),
        **({"start": start} if start else {}),
    }
    if folder.description.exists() and (folder.state.exists() or folder.weights.exists()):
        found = read_trained(folder.description)
        there = up_to_date(found.data)
        if isinstance(there.get("data"), dict):
            # The name may differ: the same images can be given by another path. Some older folders
            # have no counts or class names. These are taken over, and `source`, which has the
            # counts in words, and the fingerprint, which the names are part of, decide. Older ones
            # have no background and no store either: there the fingerprint of the pixels decides.
            keys = ("dataset", "total", "held_out", "classes", "background", "store")
            counts = {key: data[key] for key in keys if key in data}
            name = {"name": data["name"]} if "name" in data else {}
            there["data"] = counts | there["data"] | name
        # `start` and `head` are compared also where this training has none and the folder's has one.
        for key, value in ({"start": None, "head": None} | up_to_date(wanted)).items():
            if there.get(key) != value:
                difference = _difference(there.get(key), value)
                raise found.error(
                    [key],
                    f"this folder holds another training ({difference}). Fix: another --out, or the"
                    " options that it was started with",
                )
        return
    if not folder.description.exists():
        check_free(folder.root, SUPERNET_FILE)
    if not write:
        return
    folder.root.mkdir(parents=True, exist_ok=True)
    # The folder keeps its own copy, so that it outlives a change of the space's file.
    with replacing(folder.space) as temporary:
        shutil.copyfile(space.path, temporary)
    from nas.versions import versions

    recorded_command = {"command": command} if command else {}
    write_yaml(
        folder.description,
        {**wanted, **recorded_command, "versions": versions("torch", "accelerate", "safetensors")},
    )


def _other_head(space: Space) -> dict[str, Any]:
    """Return the heads of a space that are not those in its file; empty where they are.

    A single one stands by itself. A description without any is that of a training with the space's
    own heads.
    """
    own = load_space(str(space.path)).heads
    alike = tuple(replace(head, classes=space.classes) for head in own) == space.heads
    heads = [head.to_dict() for head in space.heads]
    return {} if alike else {"head": heads if len(heads) > 1 else heads[0]}


def _difference(found: Any, wanted: Any) -> str:
    """Return the first difference as text; of two mappings the first entry that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next((k for k in wanted if found.get(k) != wanted[k]), None)
        if key is not None:
            return f"{key} {found.get(key)!r} there, {wanted[key]!r} here"
    return f"{found!r} there, {wanted!r} here"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a supernet's weights."""
    return read_file(path, FORMAT, "a supernet checkpoint")


def load_weights(supernet: Supernet, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the tensors of a file into a supernet, which takes them over.

    Raises:
        InputError: naming the file and the first tensor that does not fit or is not finite.
    """
    wrong = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if wrong:
        raise InputError(
            f"{path}: '{wrong[0]}' has NaN or infinite values, {len(wrong)} of {len(tensors)}"
            " tensors. Fix: train again with another --out"
        )
    # The tensors of the file become the supernet's own: a copy would take as much memory again.
    fill(supernet, tensors, path, f"space '{supernet.space.name}'", assign=True)


def save_weights(path: Path, supernet: Supernet) -> None:
    with replacing(path) as temporary:
        header = {"format": FORMAT, "space": supernet.space.name}
        save_tensors(temporary, supernet.state_dict(), header)


def load_supernet(root: str | Path) -> tuple[Supernet, dict[str, Any]]:
    """Return the trained supernet in a folder, in eval mode, and its description.

    Raises:
        InputError: when there is no training, or a file is corrupt.
        NasError: when the training is not finished.
    """
    folder, description, space = open_folder(root)
    if not folder.weights.exists():
        raise NasError(
            f"{folder.weights}: is missing, as the training is not finished. Fix: run the same"
            " `nas train` command again"
        )
    # Its random weights are freed before the trained ones are read: a space may have 1.5 GB of them.
    supernet = Supernet(space).to("meta")
    load_weights(supernet, read_tensors(folder.weights)[0], folder.weights)
    return supernet.eval(), description


def open_folder(root: str | Path) -> tuple[Folder, dict[str, Any], Space]:
    """Return a training's folder, its description, and its space.

    The space is at the resolution and the number of classes of the training, with its head.

    Raises:
        InputError: when there is no training.
    """
    folder = Folder(Path(root))
    if not folder.description.exists():
        raise InputError(
            f"{root}: no supernet here (supernet.yaml is missing). Fix: train one with `nas train`"
        )
    file = YamlFile(folder.description)
    if file.data.get("format") != FORMAT:
        raise file.error(["format"], f"is {file.data.get('format')!r}, expected '{FORMAT}'")
    validated(file, SupernetFile, file.data)
    height, width = file.data["resolution"]
    space = load_space(str(folder.space))
    recorded = file.data.get("head")
    if isinstance(recorded, list) and recorded:
        heads = [file.parse(head_from, ["head", n], each) for n, each in enumerate(recorded)]
        space = space.with_head(*heads)
    elif recorded:
        space = space.with_head(file.parse(head_from, ["head"], recorded))
    space = space.at((height, width), file.data["classes"])
    return folder, up_to_date(file.data), space


def inherited(supernet: Supernet, arch: Architecture) -> dict[str, Tensor]:
    """Return the state dict of `nas.build(arch)`, sliced out of the supernet.

    `arch` may have another input size than the supernet. Tables of attention biases are then
    resized to its grids.

    Raises:
        ValueError: when `arch` is not a member of the supernet's space, or has another number of
            classes.
    """
    if arch.classes != supernet.space.classes:
        raise ValueError(f"{arch.classes} classes, the supernet has {supernet.space.classes}")
    state = supernet.extract(arch.at(supernet.space.resolution)).state_dict()
    # Only the shapes are read.
    with torch.device("meta"):
        wanted = build(arch).state_dict()
    return {name: _fitted(tensor, wanted[name]) for name, tensor in state.items()}


def _fitted(tensor: Tensor, wanted: Tensor) -> Tensor:
    """Return the tensor in the shape of `wanted`, resized where it is a bias table (heads, H, W).

    No other tensor depends on the input size.
    """
    return (
        tensor
        if tensor.shape == wanted.shape
        else resize_bias(tensor, (wanted.shape[1], wanted.shape[2]))
    )


def extract_to(root: str | Path, arch: Architecture, path: str | Path) -> None:
    """Write the inherited weights of `arch` from a training's folder as a safetensors file.

    Raises:
        InputError: when the folder holds no finished training.
    """
    supernet, description = load_supernet(root)
    header = {
        "format": WEIGHTS_FORMAT,
        "supernet": str(root),
        "architecture": arch.name,
        **trained_on(description).header(),
    }
    with replacing(path) as temporary:
        save_tensors(temporary, inherited(supernet, arch), header)
