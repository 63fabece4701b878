"""A run as `nas search` leaves it, and images to fine-tune on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import nas
from nas.blocks import MB3D, MB4D, ConvEmbedding, ConvStem, TokenHead
from nas.blocks.module import Block
from nas.data import Splits, load_data
from nas.files import write_yaml
from nas.finetune import Recipe
from nas.network import Network
from nas.space import Architecture, Stage
from nas.weights import LAYOUTS


@pytest.fixture(scope="session")
def digits() -> Splits:
    """Few digits at 32x32; there is no test split."""
    return load_data("digits", (32, 32), limit=400)


@pytest.fixture(scope="session")
def small() -> Architecture:
    """A small network with a distillation head for ten classes of images at 32x32."""
    attention = MB3D(heads=2, key_dim=8, value_ratio=2, expansion=2)
    stages = (
        Stage(ConvStem(8, "relu"), (MB4D(2),)),
        Stage(ConvEmbedding(16), (MB4D(2),)),
        Stage(ConvEmbedding(24), (MB4D(2), MB4D(2))),
        Stage(ConvEmbedding(32), (attention,)),
    )
    return Architecture("small", (32, 32), stages, TokenHead(10), name="small_s")


@pytest.fixture(scope="session")
def trained(small: Architecture, digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network that knows its digits, with architecture.yaml and
    weights.safetensors."""
    folder = tmp_path_factory.mktemp("trained")
    small.save(folder / "small.yaml")
    recipe = Recipe(epochs=12, batch=30, learning_rate=2e-3, flip=False, mix=0.0)
    return nas.finetune(
        folder / "small.yaml", digits, recipe, out=folder / "out", from_scratch=True
    ).folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function from an architecture, its network with weights if it has any, and keys of run.yaml
    to a run folder."""

    def make(arch: Architecture, network: Network | None = None, **run: object) -> Path:
        folder = tmp_path / "run"
        arch.save(folder / "architecture.yaml")
        write_yaml(folder / "run.yaml", {"format": "nas-run-1", "scores": {}, **run})
        if network is not None:
            header = {"format": "nas-weights-1", "architecture": arch.name}
            save_file(network.state_dict(), folder / "weights.safetensors", header)
        return folder

    return make


@pytest.fixture
def seeded() -> Callable[..., Network]:
    """A function from an architecture and a seed to its network, whose random weights tell images
    apart."""

    def make(arch: Architecture, seed: int = 0) -> Network:
        torch.manual_seed(seed)
        network = nas.build(arch)
        with torch.no_grad():
            for tensor in network.parameters():
                if tensor.dim() == 1:
                    tensor.uniform_(0.3, 1.2)
        return network

    return make


@pytest.fixture
def published() -> Callable[[Network], dict[str, Tensor]]:
    """A function from a network of EfficientFormer's blocks to its weights as timm would name them."""

    def rename(network: Network) -> dict[str, Tensor]:
        layout = "efficientformer/timm"
        prefixes = LAYOUTS[layout].prefixes(network.architecture.operations())
        tensors = {}
        for operation, block in network.named_children():
            assert isinstance(block, Block)
            for name, tensor in block.state_dict().items():
                ours = next(
                    part for part in block.published[layout] if f"{name}.".startswith(f"{part}.")
                )
                theirs = block.published[layout][ours] + name.removeprefix(ours)
                flat = tensor.flatten(1) if name == "bias" and tensor.dim() == 3 else tensor
                tensors[f"{prefixes[operation]}.{theirs}".lstrip(".")] = flat
        return tensors

    return rename
