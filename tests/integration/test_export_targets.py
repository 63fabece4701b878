"""Whole networks at their own size to every target, by the command line's own worker; int8 on
digits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas.__main__ import main
from nas.blocks import FPNHead
from nas.data import load_data
from nas.export.compare import differences, outputs_of, random_images
from nas.export.target import Model, save_state
from nas.export.targets import litert, litert_int8
from nas.network import Network
from nas.space import space_names
from nas.training.batches import normalise

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))
import seeded

SMALLEST = {
    min(space.published.values(), key=lambda arch: arch.macs).name: name
    for name in space_names()
    if (space := nas.load_space(name)).published
}
"""The smallest published member of each space, and the space."""
LAYOUTS = ("official", "timm")
"""Layouts that references are recorded in, the first one that a member has is taken."""
Export = Callable[..., dict[str, object]]
ABOUT = {
    "name": "net",
    "description": "a network",
    "author": "nas",
    "version": "1",
    "weights": "given",
}


@pytest.fixture
def export(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Export:
    """`nas export` as a function from arguments to its JSON document; stdout holds nothing else."""

    def run(*arguments: str) -> dict[str, object]:
        monkeypatch.setattr(sys, "argv", ["nas", "export", *arguments, "--json"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert not stop.value.code, err
        document: dict[str, object] = json.loads(out)
        return document

    return run


def published(name: str) -> Network:
    """The network with the weights that its reference outputs were recorded with."""
    arch = nas.load_space(SMALLEST[name]).published[name]
    net = nas.build(arch).eval()
    folder = Path(seeded.__file__).parent / SMALLEST[name]
    files = (folder / f"{name}.{layout}.csv" for layout in LAYOUTS)
    file = next(each for each in files if each.is_file())
    nas.import_weights(net, seeded.state_dict(seeded.read_types(file)))
    return net


def saved(net: Network, folder: Path) -> Path:
    folder.mkdir()
    net.architecture.save(folder / "architecture.yaml")
    save_state(folder / "weights.safetensors", net.state_dict(), net.architecture, ())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_whole_network_to_every_target(name: str, export: Export, tmp_path: Path) -> None:
    targets = ["config", "torch", "onnx", "litert", "coreml", "coreml-int8"]
    if SMALLEST[name] != "emo":
        targets.append("timm")
    document = export(str(saved(published(name), tmp_path / "run")), "--to", ",".join(targets))
    found = document["targets"]
    assert isinstance(found, dict) and found.keys() == set(targets)
    for target in ("onnx", "litert"):
        apart = found[target]["differences"]["random"]
        assert apart["relative"] < 1e-3 and apart["top1_agreement"] == 100
    height, width = nas.load_space(SMALLEST[name]).published[name].resolution
    assert (
        found["coreml"]["inspected"]["image"] == [height, width, "RGB"]
        and "not run" in found["coreml"]["note"]
    )
    again = export(str(tmp_path / "run"), "--to", ",".join(targets))["targets"]
    assert isinstance(again, dict) and all(entry["skipped"] for entry in again.values())


@torch.no_grad()
def fitted(name: str) -> Network:
    """A small member whose classifier is fitted to digits in closed form (ridge regression on its
    features)."""
    arch = nas.load_space(SMALLEST[name]).published[name].at(32, 10)
    stages = tuple(
        replace(stage, blocks=stage.blocks[:1] + stage.blocks[-1:]) for stage in arch.stages
    )
    head = replace(
        arch.head, **({"distillation": False} if hasattr(arch.head, "distillation") else {})
    )
    torch.manual_seed(0)
    net = nas.build(replace(arch, stages=stages, head=head)).eval()
    for tensor in net.parameters():
        if tensor.dim() == 4:  # as they are drawn, the signal would vanish on its way
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
        elif tensor.dim() == 1:
            tensor.add_(torch.rand_like(tensor) * 0.2)
    train = load_data("digits", (32, 32)).train
    taken: list[torch.Tensor] = []
    classifier = [part for part in net.head.modules() if isinstance(part, torch.nn.Linear)][-1]
    hook = classifier.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    for start in range(0, len(train), 100):
        net(normalise(torch.from_numpy(np.array(train.images[start : start + 100]))))
    hook.remove()
    features = torch.cat(taken)
    targets = torch.nn.functional.one_hot(torch.from_numpy(np.array(train.labels)), 10).float()
    mean = features.mean(0)
    centred = features - mean
    gram = centred.T @ centred + 1e-3 * centred.square().sum(0).mean() * torch.eye(
        features.shape[1]
    )
    weight = torch.linalg.solve(gram, centred.T @ (targets - targets.mean(0))).T
    classifier.weight.copy_(weight)
    classifier.bias.copy_(targets.mean(0) - weight @ mean)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientformer_l1", "swiftformer_xs"])
def test_int8_keeps_the_accuracy_on_digits(name: str, export: Export, tmp_path: Path) -> None:
    run = saved(fitted(name), tmp_path / "run")
    document = export(
        str(run),
        "--to",
        "litert,litert-int8",
        "--data",
        "digits",
        "--limit",
        "150",
        "--calibrate",
        "64",
    )
    found = document["targets"]
    assert isinstance(found, dict)
    plain = found["litert"]
    quantised = found["litert-int8"]
    assert plain["accuracy"]["before"] > 60 and plain["accuracy"]["images"] == 150
    assert plain["accuracy"]["after"] == plain["accuracy"]["before"]
    assert quantised["accuracy"]["after"] > quantised["accuracy"]["before"] - 5
    assert quantised["bytes"] < 0.45 * plain["bytes"]
    assert quantised["differences"]["real"]["relative"] > 0, "it is another network"


@pytest.mark.slow
def test_attention_of_8_bits_divides_by_no_0(tmp_path: Path) -> None:
    """EfficientViT's denominators, and SwiftFormer's, stay in float32: in 8 bits they can be 0,
    where LiteRT stops."""
    net = fitted("efficientvit_b0")
    images = np.array(load_data("digits", (32, 32)).train.images[:48])
    model = Model(net.architecture, net.state_dict(), tuple("0123456789"), ABOUT, images)
    path = tmp_path / "model.tflite"
    litert_int8.write(model, path)
    apart = differences(outputs_of(net, images), litert.run(path, images))
    assert apart.top1_agreement > 50


@pytest.mark.slow
def test_a_segmentation_network_in_litert(tmp_path: Path) -> None:
    arch = (
        nas.load_space("efficientvit")
        .published["efficientvit_b0"]
        .at((128, 256))
        .with_head(FPNHead(19))
    )
    torch.manual_seed(0)
    net = nas.build(arch).eval()
    model = Model(arch, net.state_dict(), tuple(map(str, range(19))), ABOUT)
    path = tmp_path / "model.tflite"
    litert.write(model, path)
    images = random_images((128, 256))
    found = litert.run(path, images)
    assert found.shape == (len(images), 19, 16, 32)
    assert differences(outputs_of(net, images), found).relative < 1e-3
