"""Small members of every family with weights of which each matters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nas
from nas.blocks import MB3D, MB4D, BlockSpec, ConvEmbedding, ConvStem, HeadSpec, TokenHead
from nas.export.target import Model, save_state
from nas.network import Network
from nas.space import Architecture, Stage, space_names

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))

SMALLEST = {
    **{
        min(space.published.values(), key=lambda arch: arch.macs).name: name
        for name in space_names()
        if (space := nas.load_space(name)).published
    },
    "efficientvit_l0": "efficientvit",
}
"""The smallest published member of each space, and of both series of EfficientViT, and its space."""


LOCAL = MB4D(expansion=2)


def small(
    block: BlockSpec = LOCAL, resolution: tuple[int, int] = (32, 32), head: HeadSpec | None = None
) -> Architecture:
    """A network of four blocks that converts in a second or two, `block` in stage 3."""
    stages = (
        Stage(ConvStem(8), (LOCAL,)),
        Stage(ConvEmbedding(12), (LOCAL,)),
        Stage(ConvEmbedding(16), (block,)),
        Stage(ConvEmbedding(16), (MB3D(heads=2, key_dim=4, value_ratio=2, expansion=2),)),
    )
    return Architecture("small", resolution, stages, head or TokenHead(3), "small_net")


@torch.no_grad()
def liven(network: Network, seed: int = 0) -> Network:
    """Gives scales, biases, norms and tables values that a mistake in folding or merging would
    show."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and tensor.dim() in (1, 3):
            low, high = (-0.2, 0.2) if name.endswith(("bias", "mean")) else (0.5, 1.5)
            tensor.uniform_(low, high, generator=generator)
    return network.eval()


@pytest.fixture
def tiny() -> Callable[..., Architecture]:
    """A function from a published member to it with the first and the last block of each stage, at
    64x64, 7 classes."""

    def make(name: str, resolution: int | tuple[int, int] = 64, classes: int = 7) -> Architecture:
        arch = nas.load_space(SMALLEST[name]).published[name].at(resolution, classes)
        stages = tuple(
            replace(
                stage,
                blocks=stage.blocks[:1] + stage.blocks[-1:] if stage.depth > 1 else stage.blocks,
            )
            for stage in arch.stages
        )
        return replace(arch, stages=stages)

    return make


def model_of(arch: Architecture) -> Model:
    """What targets write, with weights of which each matters."""
    torch.manual_seed(0)
    state = liven(nas.build(arch)).state_dict()
    names = (
        "tench",
        'a "quoted" ray',
        "ha\u00ff",
        *(f"class {index}" for index in range(3, arch.classes)),
    )
    about = {
        "name": arch.name,
        "description": "a network",
        "author": "nas",
        "version": "1",
        "weights": "random",
    }
    return Model(arch, state, names[: arch.classes], about)


@pytest.fixture(scope="session")
def make_model() -> Callable[[Architecture], Model]:
    """`model_of`."""
    return model_of


@pytest.fixture(scope="session")
def make_small() -> Callable[..., Architecture]:
    """`small`."""
    return small


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function from an architecture to a run's folder with weights."""

    def make(arch: Architecture, weights: bool = True, name: str = "run") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        arch.save(folder / "architecture.yaml")
        if weights:
            torch.manual_seed(0)
            save_state(
                folder / "weights.safetensors", liven(nas.build(arch)).state_dict(), arch, ()
            )
        return folder

    return make
