"""Architectures as models of timm, for all that takes a model by timm's name.

    from nas.integrations.timm import register
    register("runs/found", "found")
    timm.create_model("found", pretrained=True, features_only=True)

Hugging Face's `TimmBackbone` then takes it as a backbone, too. segmentation-models-pytorch
(`tu-found`) and mmdetection's timm wrapper should, but no test of ours runs them.

timm's own code cannot express most members of a space. Here timm calls this package, so every
member works, with equal outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.data.images import MEAN, STD
from nas.errors import InputError
from nas.extras import need
from nas.features import STAGES, Backbone, FeatureInfo, backbone
from nas.network import Network, build
from nas.runs.resolve import find_source
from nas.space import Architecture
from nas.weights.network_file import read_network, with_new_head

NAMES = re.compile(r"[A-Za-z0-9_]+")
"""Names that timm takes: it reads a dot as the beginning of a tag, a slash and a colon as a source."""
_WITHOUT_EFFECT = (
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "scriptable",
    "exportable",
)
"""Arguments that `timm.create_model` adds to those of the user, which concern its own downloads."""


class TimmNetwork(nn.Module):
    """A network with the attributes and methods that timm's models have.

    Attributes:
        network: the network, whose children keep their names.
        num_classes: of the classifier; 0 without one, when the output is the mean of the last map.
        num_features: channels of the last stage.
        feature_info: of all four stages.
        pretrained_cfg: input size and normalisation, as timm's data functions take them.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        arch = network.architecture
        self.network = network
        self.num_classes = arch.classes
        self.num_features = arch.widths[-1]
        self.head_hidden_size = self.num_features
        self.feature_info = backbone_info(arch)
        self.pretrained_cfg = {
            "architecture": arch.name,
            "input_size": (3, *arch.resolution),
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": arch.classes,
            "first_conv": None,
            "classifier": None,
        }
        self.default_cfg = self.pretrained_cfg

    def forward_features(self, x_bchw: Tensor) -> Tensor:
        """Return the last stage's map (B, C, H / 32, W / 32)."""
        last: Tensor = self.network.forward_features(x_bchw)[-1]
        return last

    def forward(self, x_bchw: Tensor) -> Any:
        """Return logits (B, num_classes); without a classifier the pooled features (B, C)."""
        if not self.num_classes:
            return self.forward_features(x_bchw).mean(dim=(2, 3))
        return self.network(x_bchw)

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        head: nn.Module = self.network.get_submodule("head")
        return head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one; 0 classes for none."""
        self.num_classes = num_classes
        if num_classes:
            self.network = with_new_head(self.network, num_classes)


def backbone_info(arch: Architecture) -> FeatureInfo:
    """Return the channels and strides of all stages of an architecture."""
    with torch.device("meta"):
        return backbone(arch, range(1, STAGES + 1)).feature_info


def register(
    run: str | Path | Architecture, name: str | None = None, weights: str | Path | None = None
) -> str:
    """Register a network with timm and return its name, for `timm.create_model`.

    Args:
        run: a run folder, an architecture's YAML file, a published member's name, or an
            architecture.
        name: of the model; by default the architecture's.
        weights: file of the weights for `pretrained=True`; by default the best ones of the run.

    Raises:
        InputError: for a name that timm would read otherwise, and where there is no such network.
        MissingExtra: where timm is not installed.
    """
    need("nas.integrations.timm", "vision", "timm")
    from timm.models import register_model

    from nas.integrations import timm_models

    if isinstance(run, Architecture):
        arch = run
        file = None if weights is None else Path(weights)
    else:
        source = find_source(str(run), None if weights is None else Path(weights))
        arch = source.architecture
        file = source.weights
    name = name or arch.name
    if not NAMES.fullmatch(name):
        raise InputError(
            f"name: '{name}' is not a name of a timm model (expected letters, digits and '_')."
            " Fix: register(run, name)"
        )
    entry = _entry(arch, file)
    entry.__name__ = entry.__qualname__ = name
    # timm reads the name of the function and of its module, and lists the model in the module.
    entry.__module__ = timm_models.__name__
    setattr(timm_models, name, register_model(entry))
    return name


def _entry(arch: Architecture, file: Path | None) -> Callable[..., nn.Module]:
    """Return the function that `timm.create_model` calls."""

    def create(
        pretrained: bool = False,
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        in_chans: int = 3,
        **others: Any,
    ) -> nn.Module:
        _check(arch, in_chans, others, features_only)
        if pretrained and file is None:
            raise InputError(
                f"{arch.name}: pretrained=True without weights. Fix: register(run, name, weights)"
            )
        sized = arch.at(others.get("img_size"))
        network = read_network(file, sized) if pretrained and file else build(sized)
        if features_only:
            return _features(network, out_indices)
        model = TimmNetwork(network)
        if num_classes is not None and num_classes != model.num_classes:
            model.reset_classifier(num_classes)
        return model

    return create


def _features(network: Network, out_indices: int | Sequence[int] | None) -> Backbone:
    """Return the backbone of some stages, which timm counts from 0, or from the end if negative.

    One number stands for so many of the last stages.
    """
    indices = range(STAGES) if out_indices is None else out_indices
    if isinstance(indices, int):
        indices = range(-indices, 0)
    stages = [index % STAGES + 1 for index in indices if -STAGES <= index < STAGES]
    if not stages or len(stages) < len(list(indices)):
        raise InputError(f"out_indices: expected stages from 0 to {STAGES - 1} (got {out_indices})")
    return Backbone(network, stages)


def _check(arch: Architecture, in_chans: int, others: dict[str, Any], features_only: bool) -> None:
    """Raise InputError for arguments that timm's models have and this one does not."""
    if in_chans != 3:
        raise InputError(f"in_chans: {arch.name} takes 3 channels (got {in_chans})")
    if others.get("output_stride", 32) != 32:
        raise InputError(
            f"output_stride: {arch.name} has stride 32 (got {others['output_stride']})"
        )
    known = {*_WITHOUT_EFFECT, "output_stride", "img_size"}
    # Pooling belongs to the head, which a backbone does not have.
    if features_only:
        known.add("global_pool")
    # What is off by default may be turned off once more, such as drop_path_rate=0. The empty name
    # of a pooling stands for maps that are not pooled.
    unknown = [
        key
        for key, value in others.items()
        if key not in known and (value or (key == "global_pool" and value == ""))
    ]
    if unknown:
        raise InputError(f"{unknown[0]}: {arch.name} has no such argument")
