"""Interface of an export target, and the model that it writes.

`nas.export.run` and `nas.export.worker` call targets; each file of `nas.export.targets` is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.convert.chain import Chain
from nas.runs.schema import ARCHITECTURE_FILE, WEIGHTS_FILE, WEIGHTS_FORMAT
from nas.runs.trained_on import TrainedOn
from nas.space import Architecture, load_architecture

if TYPE_CHECKING:
    from torch import Tensor

    from nas.network import Network

Images = NDArray[np.uint8]
"""RGB images (N, 3, H, W), pixels from 0 to 255."""
Outputs = NDArray[np.float32]
"""Logits (N, classes); of dense prediction scores (N, classes, h, w) or labels (N, H, W)."""


@dataclass(frozen=True)
class Model:
    """A network with everything that an exported file records about it.

    Attributes:
        architecture: of the network.
        state: the weights as `nas.build(architecture).state_dict()` names them.
        classes: names of the logits' classes.
        about: name, description, author, version and provenance of the weights, for the file's
            metadata.
        calibration: images to calibrate a quantisation with, or None.
        output: of dense prediction: "scores" of the head, or "labels" of the input's pixels.
    """

    architecture: Architecture
    state: dict[str, Tensor]
    classes: tuple[str, ...]
    about: dict[str, str]
    calibration: Images | None = None
    output: str = "scores"

    def network(self) -> Network:
        """Return the network with these weights, in eval mode."""
        import torch

        from nas.network import build

        with torch.device("meta"):
            network = build(self.architecture)
        # Assigned, as the network on the meta device has no memory to copy into. Copies, as
        # deploying changes weights in place.
        network.load_state_dict(
            {name: tensor.clone() for name, tensor in self.state.items()}, assign=True
        )
        return network.eval()

    @property
    def dense(self) -> bool:
        """Return whether the network gives maps of scores (dense prediction) instead of logits."""
        return self.architecture.head.layout == "pyramid"

    @property
    def labels(self) -> bool:
        """Return whether the files give the class of each pixel."""
        return self.dense and self.output == "labels"

    def save(self, folder: Path) -> None:
        """Write the model into a folder, for `load` in another process."""
        self.architecture.save(folder / ARCHITECTURE_FILE)
        save_state(folder / WEIGHTS_FILE, self.state, self.architecture, self.classes)
        (folder / "about.json").write_text(
            json.dumps({"classes": self.classes, "about": self.about, "output": self.output})
        )
        if self.calibration is not None:
            np.save(folder / "calibration.npy", self.calibration, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Return the model that `save` wrote into a folder."""
        from nas.weights.files import read_safetensors

        about = json.loads((folder / "about.json").read_text())
        state, _ = read_safetensors(folder / WEIGHTS_FILE)
        images = folder / "calibration.npy"
        return cls(
            load_architecture(folder / ARCHITECTURE_FILE),
            state,
            tuple(about["classes"]),
            about["about"],
            np.load(images, mmap_mode="r", allow_pickle=False) if images.exists() else None,
            about["output"],
        )


def save_state(
    path: Path, state: dict[str, Tensor], architecture: Architecture, classes: tuple[str, ...]
) -> None:
    """Write weights to a safetensors file that every command of this project reads."""
    from nas.weights.files import save_tensors

    header = {
        "format": WEIGHTS_FORMAT,
        "architecture": architecture.name,
        **TrainedOn(classes).header(),
    }
    save_tensors(path, state, header)


DENSE = ("scores", "labels")
"""First words of what the files of dense prediction say of their output."""


@dataclass(frozen=True)
class Contents:
    """What an exported file says about itself.

    Attributes:
        classes: names of the outputs' classes.
        resolution: (height, width) of the input in pixels.
        about: `Model.about`, with the background that transparent pixels were laid on.
        dense: whether it gives maps of scores.
    """

    classes: tuple[str, ...]
    resolution: tuple[int, int]
    about: dict[str, str]
    dense: bool


@dataclass(frozen=True)
class Target:
    """A format that networks are exported to; `nas.export.TARGETS` lists the defining files.

    Attributes:
        file: name of the exported file or folder.
        write: writes the network to a file of this format. Raises NasError for an operation that
            the format cannot express.
        packages: distributions that it needs, whose versions are recorded.
        run: runs a file on images (N, 3, H, W) of pixels; None where this computer cannot.
        read: returns what a file says about itself. Raises InputError for one that `write` did not
            write. None where files do not hold their class names or cannot run here.
        alone: writes one operation of a network alone, to find the one that the format cannot
            express; None for a target that converts nothing.
        inspect: returns facts on a file that are read without running it. Raises NasError when one
            is not as expected.
        tolerance: maximum root mean squared difference of a file's outputs from the network's, over
            the standard deviation of the network's outputs.
        disagreement: maximum percentage of pixels that a file gives another class than the network,
            which dense prediction is compared by.
        calibrated: whether it needs calibration images.
        weights: whether its file holds the network's weights.
        note: a remark for the user on every file of this kind.
        mark: file by which a folder that it writes is known; None where it writes a file.
    """

    file: str
    write: Callable[[Model, Path], None]
    packages: tuple[str, ...] = ()
    run: Callable[[Path, Images], Outputs] | None = None
    read: Callable[[Path], Contents] | None = None
    alone: Callable[[Chain, Path], None] | None = None
    inspect: Callable[[Path, Model], dict[str, Any]] | None = None
    tolerance: float = 1e-3
    disagreement: float = 1.0
    calibrated: bool = False
    weights: bool = True
    note: str = ""
    mark: str | None = None
