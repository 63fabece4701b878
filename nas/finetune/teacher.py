"""Teacher of a fine-tuning: a supernet's largest member, or a network with trained weights.

`nas.finetune.run` loads it, `nas.finetune.task` runs it in every step.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data import ImageData
from nas.errors import InputError
from nas.files import YamlFile, file_sha256
from nas.finetune.start import known_of
from nas.network import Network
from nas.runs.resolve import Subject, find_subject
from nas.runs.schema import RUN_FILE
from nas.runs.trained_on import TrainedOn, check_names
from nas.supernet.checkpoint import Folder, load_supernet
from nas.supernet.description import trained_on
from nas.tasks import task_of
from nas.training.evaluate import calibrate, resized
from nas.weight_files import find_file
from nas.weights.network_file import read_network, reorder_classes

SUPERNET = "supernet"


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode.

    Attributes:
        network: the network, at its own resolution.
        about: name, file, checksum and resolution, for the description of the fine-tuning.
        trained_on: what it was trained on.
    """

    network: Network
    about: dict[str, Any]
    trained_on: TrainedOn = field(default_factory=TrainedOn)

    @torch.no_grad()
    def __call__(self, images_bchw: Tensor) -> Tensor:
        """Return logits (B, classes) for normalised images, resized to the teacher's resolution."""
        # The teacher is not a part of the trained module, so the loop does not move it. After the
        # first step this does nothing.
        self.network.to(images_bchw.device)
        logits: Tensor = self.network(resized(images_bchw, self.network.architecture.resolution))
        return logits


def load_teacher(
    name: str, weights: str | Path | None, subject: Subject, data: ImageData
) -> Teacher:
    """Return the teacher of this name.

    Args:
        name: `supernet` for the largest member of the supernet that the run's weights are from; the
            folder of another supernet's training for its largest member; an architecture's YAML
            file; or a published member's name.
        weights: file of weights, for an architecture or a published member.
        subject: the network to fine-tune.
        data: training images. They give a supernet's member the statistics of its batch norms.

    Raises:
        InputError: when there is no such teacher, or it was trained for another number of classes.
    """
    sliced = name == SUPERNET or Folder(Path(name)).description.is_file()
    if sliced and weights is not None:
        raise InputError(
            f"--teacher-weights {weights}: a supernet has its own weights. Fix: leave it out"
        )
    if sliced:
        network, file, known = _largest(_supernet_of(subject) if name == SUPERNET else Path(name))
    elif weights is None:
        from nas.space import load_architecture

        try:
            load_architecture(name)
        except InputError:
            raise InputError(
                f"--teacher {name}: is unknown (expected supernet, a training's folder, an"
                " architecture's YAML file or a published member). Fix: `nas spaces` lists the"
                " published members"
            ) from None
        raise InputError(f"--teacher {name}: its weights are missing. Fix: --teacher-weights FILE")
    else:
        teacher = find_subject(name).architecture
        file = find_file(weights)
        network = read_network(file, teacher)
        known = known_of(file)
    arch = network.architecture
    task = task_of(arch.head)
    if task.has_maps is not (data.masks is not None):
        raise InputError(
            f"--teacher {name}: is trained for {task.name}, the network is not. Fix: give a teacher of"
            " the same task"
        )
    if arch.classes != len(data.classes):
        raise InputError(
            f"--teacher {name}: has {arch.classes} classes, the data has {len(data.classes)}. Fix:"
            " train a teacher on this data with `nas finetune --init FILE --new-head`"
        )
    if check_names(
        f"--teacher {name}", known.classes, data.classes, remedy="give a teacher of these classes"
    ):
        assert known.classes is not None
        reorder_classes(network, known.classes, data.classes)
        warnings.warn(
            f"--teacher {name}: its outputs are reordered to the classes of the data", stacklevel=2
        )
    # Running statistics of a supernet are those of all its members.
    if sliced:
        calibrate(network, data)
    called = f"largest member of {arch.space}'s supernet" if sliced else arch.name or name
    about = {
        "name": called,
        "file": str(file),
        "sha256": file_sha256(file),
        "resolution": list(arch.resolution),
    }
    return Teacher(network.eval(), about, known)


def _largest(folder: Path) -> tuple[Network, Path, TrainedOn]:
    """Return the largest member of a trained supernet, its file, and what it was trained on."""
    supernet, description = load_supernet(folder)
    network = supernet.extract(supernet.space.largest())
    return network, Folder(folder).weights, trained_on(description)


def _supernet_of(subject: Subject) -> Path:
    """Return the folder of the supernet that a run's weights were cut from, by the run's record.

    Raises:
        InputError: when there is none, or it is not in that place.
    """
    if subject.run is None:
        raise InputError(
            "--teacher supernet: an architecture alone has none. Fix: --teacher FOLDER of a"
            " `nas train`"
        )
    named = YamlFile(subject.run / RUN_FILE).data.get("supernet")
    if subject.weights is None or named is None:
        raise InputError(
            f"--teacher supernet: {subject.run} was searched without --supernet. Fix: --teacher"
            " FOLDER of a `nas train`"
        )
    folder = Path(str(named))
    if not Folder(folder).description.is_file():
        raise InputError(
            f"--teacher supernet: there is no supernet in {folder}, which"
            f" {subject.run / 'run.yaml'} names. Fix: --teacher FOLDER with its present path"
        )
    return folder
