"""A training's folder: what it was asked for, where it stands, what came out.

supernet.yaml        the space, the data, the recipe, the versions; not changed once a state is saved
space.yaml           the space file that was used
state.safetensors    everything that training needs to go on; its header has the step
supernet.safetensors the weights alone, once training is done; their moving average where one is kept
metrics.csv          loss, accuracy, rates and images a second by step
tensorboard/         the same as TensorBoard event files
alpha.csv            each position's shares by step
evaluations.csv      members one move away from the largest, each written as soon as it is measured
evaluations.yaml     what they were measured with (`nas.supernet.score`)
scores.csv, .yaml    what each move costs in accuracy, and what that was measured with
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nas.accuracy.recorded_file import WEIGHTS_FILE
from nas.errors import InputError, NasError
from nas.files import YamlFile, replacing, write_yaml
from nas.space import Space, load_space
from nas.supernet.description import up_to_date
from nas.supernet.recipe import Recipe
from nas.supernet.supernet import Supernet
from nas.training.folder import TrainingFolder
from nas.training.state import fill
from nas.training.state import read_tensors as read_file

FORMAT = "nas-supernet-1"


@dataclass(frozen=True)
class Folder(TrainingFolder):
    """The paths of a training's folder."""

    @property
    def description(self) -> Path:
        return self.root / "supernet.yaml"

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
    folder: Folder, space: Space, recipe: Recipe, data: dict[str, Any], start: dict[str, str] | None = None,
    write: bool = True, command: str = "",
) -> None:  # fmt: skip
    """Starts a training's folder, or checks that the one that is there is of the same training.

    One that has saved nothing yet does not count: a batch that did not fit is tried again with other options.
    `start` describes the checkpoint that the weights are from in the beginning, if any. Without `write` it only checks.
    `command` is the command line.

    Raises:
        InputError: naming the file and the first key that differs.
    """
    wanted = {
        "format": FORMAT,
        "space": space.name,
        "resolution": list(space.resolution),
        "classes": space.classes,
        "data": data,
        "recipe": recipe.to_dict(),
        **({"start": start} if start else {}),
    }
    if folder.description.exists() and (folder.state.exists() or folder.weights.exists()):
        found = YamlFile(folder.description)
        there = up_to_date(found.data)
        if isinstance(there.get("data"), dict):
            # The same images may be given by another name. Some older folders say nothing of the counts at all; there
            # `source`, which has them in words, is compared.
            counts = {key: data[key] for key in ("dataset", "total", "held_out") if key in data}
            name = {"name": data["name"]} if "name" in data else {}
            there["data"] = counts | there["data"] | name
        for key, value in ({"start": None} | wanted).items():
            if there.get(key) != value:
                difference = _difference(there.get(key), value)
                raise found.error([key], f"this folder holds another training ({difference}); give another --out, or "
                                         "the options it was started with")  # fmt: skip
        return
    if not write:
        return
    folder.root.mkdir(parents=True, exist_ok=True)
    with replacing(folder.space) as temporary:
        shutil.copyfile(space.path, temporary)
    from nas.versions import versions

    told = {"command": command} if command else {}
    write_yaml(folder.description, {**wanted, **told, "versions": versions("torch", "accelerate", "safetensors")})


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next((k for k in wanted if found.get(k) != wanted[k]), None)
        if key is not None:
            return f"{key} {found.get(key)!r} there, {wanted[key]!r} here"
    return f"{found!r} there, {wanted!r} here"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a supernet's weights."""
    return read_file(path, FORMAT, "a supernet checkpoint")


def load_weights(supernet: Supernet, tensors: dict[str, Tensor], path: Path) -> None:
    fill(supernet, tensors, path, f"space '{supernet.space.name}'")


def save_weights(path: Path, supernet: Supernet) -> None:
    with replacing(path) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in supernet.state_dict().items()}
        save_file(tensors, temporary, {"format": FORMAT, "space": supernet.space.name})


def load_supernet(root: str | Path) -> tuple[Supernet, dict[str, Any]]:
    """A trained supernet in eval mode, and its description, from a training's folder.

    Raises:
        InputError: when there is no training, or it is not done, or a file is corrupt.
    """
    folder, description, space = open_folder(root)
    if not folder.weights.exists():
        raise NasError(f"{folder.weights}: is not there yet; finish the training with the same `nas train` command")
    supernet = Supernet(space)
    load_weights(supernet, read_tensors(folder.weights)[0], folder.weights)
    return supernet.eval(), description


def open_folder(root: str | Path) -> tuple[Folder, dict[str, Any], Space]:
    """A training's folder, its description, and its space at the resolution and classes it was trained for."""
    folder = Folder(Path(root))
    if not folder.description.exists():
        raise InputError(f"{root}: no supernet here (there is no supernet.yaml); `nas train` makes one")
    file = YamlFile(folder.description)
    if file.data.get("format") != FORMAT:
        raise file.error(["format"], f"is {file.data.get('format')!r}, expected '{FORMAT}'")
    height, width = file.data["resolution"]
    space = load_space(str(folder.space)).at((height, width), file.data["classes"])
    return folder, up_to_date(file.data), space
