"""A training's folder: what it was asked for, where it stands, what came out.

supernet.yaml        the space, the data, the recipe, the versions; written once, never changed
space.yaml           the space file that was used
state.safetensors    weights, architecture parameters, optimizer moments; its header has the step
supernet.safetensors the weights alone, once training is done
metrics.csv          loss, accuracy, rates and images a second by step
alpha.csv            each position's shares by step
scores.csv, .yaml    what each move costs in accuracy (`nas.supernet.sensitivity`)
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas.errors import InputError, NasError
from nas.files import YamlFile, replacing, write_yaml
from nas.space import Space, load_space
from nas.supernet.recipe import Recipe
from nas.supernet.supernet import Supernet

FORMAT = "nas-supernet-1"


@dataclass(frozen=True)
class Folder:
    """The paths of a training's folder."""

    root: Path

    @property
    def description(self) -> Path:
        return self.root / "supernet.yaml"

    @property
    def space(self) -> Path:
        return self.root / "space.yaml"

    @property
    def state(self) -> Path:
        return self.root / "state.safetensors"

    @property
    def weights(self) -> Path:
        return self.root / "supernet.safetensors"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def alpha(self) -> Path:
        return self.root / "alpha.csv"

    @property
    def scores(self) -> Path:
        return self.root / "scores.csv"


def describe(
    folder: Folder, space: Space, recipe: Recipe, data: dict[str, Any], start: dict[str, str] | None = None
) -> None:
    """Starts a training's folder, or checks that the one that is there is of the same training.

    `start` describes the checkpoint that the weights are from in the beginning, if any.

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
    if folder.description.exists():
        found = YamlFile(folder.description)
        for key, value in ({"start": None} | wanted).items():
            if found.data.get(key) != value:
                difference = _difference(found.data.get(key), value)
                raise found.error([key], f"this folder holds another training ({difference}); give another --out, or "
                                         "the options it was started with")  # fmt: skip
        return
    folder.root.mkdir(parents=True, exist_ok=True)
    with replacing(folder.space) as temporary:
        shutil.copyfile(space.path, temporary)
    from nas.versions import versions

    write_yaml(folder.description, {**wanted, "versions": versions("torch", "safetensors")})


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next((k for k in wanted if found.get(k) != wanted[k]), None)
        if key is not None:
            return f"{key} {found.get(key)!r} there, {wanted[key]!r} here"
    return f"{found!r} there, {wanted!r} here"


def save_state(path: Path, supernet: Supernet, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Writes everything that training needs to go on; the old file stays whole until the new one is."""
    tensors = {f"supernet.{name}": tensor for name, tensor in supernet.state_dict().items()}
    for name, parameter in supernet.named_parameters():
        tensors |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    with replacing(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"format": FORMAT, "step": str(step)})


def load_state(path: Path, supernet: Supernet, optimizer: torch.optim.Optimizer) -> int:
    """Restores what `save_state` wrote. Returns the number of steps done.

    Raises:
        InputError: when the file is corrupt or of another supernet.
    """
    tensors, metadata = read_tensors(path)
    load_weights(supernet, {k.removeprefix("supernet."): v for k, v in tensors.items() if k[0] == "s"}, path)
    for name, parameter in supernet.named_parameters():
        prefix = f"optimizer.{name}."
        # A scale's name can start another's ("alpha" never does): the rest of the key has no dot.
        state = {
            k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix) and "." not in k[len(prefix) :]
        }
        if state:
            optimizer.state[parameter] = {k: _laid_out_as(parameter, v) for k, v in state.items()}
    return int(metadata["step"])


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The value in the parameter's memory format and place: the fused optimizer walks both in memory order."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape and value.dim() else value


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file that this project wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: no supernet checkpoint (its header has no format '{FORMAT}')")
    return tensors, metadata


def load_weights(supernet: Supernet, tensors: dict[str, Tensor], path: Path) -> None:
    own = supernet.state_dict()
    wrong = [
        n for n in own.keys() | tensors.keys() if n not in own or n not in tensors or own[n].shape != tensors[n].shape
    ]
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} tensors do not fit space '{supernet.space.name}', {sorted(wrong)[0]} first"
        )
    supernet.load_state_dict(tensors)


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
    return folder, file.data, load_space(str(folder.space)).at((height, width), file.data["classes"])
