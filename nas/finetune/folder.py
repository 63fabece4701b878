"""A fine-tuning's folder: what it was asked for, where it stands, what came out.

finetune.yaml        what went in (network, start, data, recipe, teacher, versions, command); once it is done also the
                     accuracy, how long it took, and that in words
architecture.yaml    the network, with the head it was trained with
weights.safetensors  its fine-tuned weights, once training is done: written last

and what the training loop writes (`nas.training.folder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nas.files import YamlFile, replacing, write_yaml
from nas.network import Network
from nas.runs.schema import ARCHITECTURE_FILE, FINETUNE_FILE, WEIGHTS_FILE, WEIGHTS_FORMAT
from nas.space import Architecture, load_architecture
from nas.training.folder import TrainingFolder
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


def describe(folder: FinetuneFolder, arch: Architecture, asked: Mapping[str, Any], command: str) -> None:
    """Starts a fine-tuning's folder, or checks that the one that is there is of the same fine-tuning.

    One that has saved nothing yet does not count: a batch that did not fit is tried again with other options. Where
    the files of weights lie does not count either, their checksums do: a run goes on in another place.

    Raises:
        InputError: naming the file and the first key that differs.
    """
    wanted = {"format": FORMAT, **asked}
    if not (folder.description.exists() and folder.state.exists()):
        arch.save(folder.architecture)
        write_yaml(folder.description, {**wanted, "versions": versions("torch", "safetensors"), "command": command})
        return
    found, remedy = YamlFile(folder.description), "; give another --out, or the options it was started with"
    for key, value in wanted.items():
        if _unplaced(found.data.get(key)) != _unplaced(value):
            difference = _difference(found.data.get(key), value)
            raise found.error([key], f"this folder holds another fine-tuning ({difference}){remedy}")
    if load_architecture(folder.architecture) != arch:
        raise found.error(["architecture"], f"this folder holds the fine-tuning of another network{remedy}")


def finish(folder: FinetuneFolder, network: Network, outcome: Mapping[str, Any], header: Mapping[str, str]) -> None:
    """Adds what came out to the description, then writes the weights."""
    write_yaml(folder.description, {**YamlFile(folder.description).data, **outcome})
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder.weights) as temporary:
        save_file(tensors, temporary, {"format": WEIGHTS_FORMAT, "architecture": network.architecture.name, **header})


def _unplaced(value: Any) -> Any:
    """What a description says, but for where files lie."""
    places = ("file", "supernet")
    return {k: v for k, v in value.items() if k not in places} if isinstance(value, dict) else value


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        there, here = _unplaced(found), _unplaced(wanted)
        key = next(k for k in (*here, *there) if there.get(k) != here.get(k))
        return f"{key} {there.get(key)!r} there, {here.get(key)!r} here"
    return f"{found!r} there, {wanted!r} here"
