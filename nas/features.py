"""Backbone: a network without its head, for detection and segmentation, with `feature_info`.

`nas.backbone` makes it. Its outputs are feature maps at strides 4 to 32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas.blocks import Operation
from nas.errors import InputError, check_count, check_type
from nas.network import Network, build, caller, pyramid
from nas.runs.resolve import find_source
from nas.space import Architecture
from nas.space.architecture import STRIDE
from nas.space.place import STEM, Place
from nas.weights.files import read_checkpoint
from nas.weights.network_file import load_network, tell

STAGES = 4


class FeatureInfo:
    """Channels, strides and names of a backbone's outputs, with the methods of timm's class.

    Attributes:
        info: one dict per stage of the network: `num_chs` channels, `reduction` (the stride),
            `module` (the name of the last child of the stage) and `index`, counted from 0.
        out_indices: the stages that the backbone returns, counted from 0.
    """

    def __init__(self, info: Sequence[Mapping[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [dict(entry) for entry in info]
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return a value of each stage in `idx` (by default the returned ones), or of one stage."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[index][key] for index in (self.out_indices if idx is None else idx)]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Return the dict of each stage in `idx`, or of one stage, with `keys` or all keys."""

        def chosen(index: int) -> dict[str, Any]:
            entry = self.info[index]
            return dict(entry) if keys is None else {key: entry[key] for key in keys}

        if isinstance(idx, int):
            return chosen(idx)
        return [chosen(index) for index in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the channels of each output, such as [96, 224, 448]."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the stride of each output, such as [8, 16, 32]."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the name of the child module that computes each output."""
        return self.get("module", idx)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)

    def __repr__(self) -> str:
        return f"FeatureInfo(channels {self.channels()}, strides {self.reduction()})"


class Backbone(nn.Module):
    """A network without its head: images to the maps (B, C, H / stride, W / stride) of some stages.

    Images are (B, 3, H, W), where H and W are multiples of 32. The children are those of the
    network, under the same names, up to the last stage in `out`.

    Attributes:
        architecture: of the whole network.
        out: stages whose maps are returned, counted from 1.
        feature_info: channels and strides of these maps.
    """

    def __init__(self, network: Network, out: Sequence[int]) -> None:
        super().__init__()
        self.architecture = network.architecture
        self.out = tuple(out)
        # Operations without the head, up to the last stage that is returned.
        self._operations = _up_to(self.architecture.operations()[:-1], max(self.out))
        for operation in self._operations:
            self.add_module(operation.name, network.get_submodule(operation.name))
        self.feature_info = FeatureInfo(_info(self.architecture), [stage - 1 for stage in self.out])

    def forward(self, x_bchw: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, C, H / stride, W / stride) of the stages in `out`."""
        if x_bchw.dim() != 4 or x_bchw.shape[1] != 3:
            raise InputError(
                f"input: is not a batch of images (got {tuple(x_bchw.shape)}, expected (B, 3, height,"
                " width))"
            )
        height, width = x_bchw.shape[2:]
        if height % STRIDE or width % STRIDE:
            raise InputError(
                f"input: {height}x{width} is not a size for a backbone (expected multiples of"
                f" {STRIDE})"
            )
        maps = pyramid(self._operations, x_bchw, caller(self, self._operations, x_bchw))
        return tuple(maps[stage - 1] for stage in self.out)

    def __repr__(self) -> str:
        return f"Backbone({self.architecture.name!r}, stages {self.out}, {self.feature_info!r})"

    def __str__(self) -> str:
        """Return every layer, one per line, as `print` shows any other torch module."""
        return super().__repr__()


def backbone(
    arch: Architecture | str | Path,
    out: Sequence[int] = (2, 3, 4),
    weights: str | Path | Mapping[str, Any] | None = None,
) -> Backbone:
    """Return the network of an architecture without its head; its outputs are maps of its stages.

    Args:
        arch: the architecture, or what names one: a run folder, a YAML file or a published member.
            Its input size sets the grid of attention biases; the backbone also takes other sizes.
        out: stages whose maps are returned, from 1 (stride 4) to 4 (stride 32), in this order.
        weights: a file of weights or a state dict, of this project or of a published checkpoint.
            By default those of a run, else random ones.

    Raises:
        InputError: for stages that do not exist, and for weights of another architecture.
    """
    if isinstance(arch, (str, Path)):
        source = find_source(str(arch), Path(weights) if isinstance(weights, (str, Path)) else None)
        arch = source.architecture
        weights = source.weights if weights is None else weights
    check_type("arch", arch, Architecture, "nas.load_architecture")
    if weights is not None and not isinstance(weights, (str, Path, Mapping)):
        raise InputError(
            "weights: expected a file or a state dict (got"
            f" {type(weights).__name__} {str(weights)[:40]!r})"
        )
    return Backbone(build(arch) if weights is None else _loaded(arch, weights), _stages(out))


def _stages(out: Any) -> tuple[int, ...]:
    """Return the stages that `out` names, in its order. Raises InputError for any other value."""
    several = out if isinstance(out, Iterable) and not isinstance(out, str) else (out,)
    try:
        stages = tuple(check_count("out", stage, least=1, most=STAGES) for stage in several)
    except InputError:
        stages = ()
    if not stages or len(set(stages)) < len(stages):
        raise InputError(f"out: expected different stages from 1 to {STAGES} (got {out!r})")
    return stages


def _loaded(arch: Architecture, weights: str | Path | Mapping[str, Any]) -> Network:
    """Return the network with these weights; a head that they lack stays random."""
    if isinstance(weights, Mapping):
        where: str = "weights"
        content: Mapping[str, Any] = weights
    else:
        checkpoint = read_checkpoint(weights)
        where = str(checkpoint.path)
        content = checkpoint.content
    loaded = load_network(content, arch, where, new_head=True)
    tell(loaded, where)
    return loaded.network


def _up_to(operations: Sequence[Operation], stage: int) -> tuple[Operation, ...]:
    """Return the operations of the stem and of the first `stage` stages."""
    streams = {STEM, *(Place.whole(index) for index in range(stage))}
    return tuple(
        operation for operation in operations if Place.parse(operation.name).stream in streams
    )


def _info(arch: Architecture) -> list[dict[str, Any]]:
    """Return the dict of each stage for `FeatureInfo`."""
    info = []
    # Strides are 4, 8, 16 and 32.
    for index, stage in enumerate(arch.stages):
        last = _up_to(arch.operations()[:-1], index + 1)[-1]
        info.append(
            {"num_chs": stage.width, "reduction": 4 << index, "module": last.name, "index": index}
        )
    return info
