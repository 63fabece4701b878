"""Every target on a small member of every family: outputs, metadata, sizes, heads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

import nas
from nas.blocks import EfficientViTModule, FPNHead, TokenHead
from nas.errors import InputError, NasError
from nas.export import TARGETS, chosen, load_target
from nas.export.compare import differences, outputs_of, random_images
from nas.export.deploy import Deployed, deployed
from nas.export.target import Model
from nas.export.targets import coreml, litert
from nas.export.targets import onnx as onnx_target
from nas.runs.exports import size
from nas.space import Architecture, load_space, space_names
from nas.training.batches import normalise
from nas.weights import load_state_dict

SMALLEST = (
    *(
        min(published.values(), key=lambda arch: arch.macs).name
        for name in space_names()
        if (published := load_space(name).published)
    ),
    "efficientvit_l0",
)
Tiny = Callable[..., Architecture]
Make = Callable[..., Model]
Files = Callable[[str], Path]


@torch.no_grad()
@pytest.mark.parametrize("name", SMALLEST)
def test_deployed_takes_pixels_and_gives_the_networks_logits(
    name: str, tiny: Tiny, make_model: Make
) -> None:
    model = make_model(tiny(name))
    images = torch.from_numpy(random_images((64, 64)))
    expected = model.network()(normalise(images))
    found = Deployed(deployed(model.network()))(images.float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01, "weights that matter"


def exported(target: str, model: Model, folder: Path) -> Path:
    path = folder / load_target(target).file
    load_target(target).write(model, path)
    return path


def check(target: str, model: Model, path: Path) -> None:
    """The file gives what the network gives, for several images."""
    images = random_images(model.architecture.resolution)
    run = load_target(target).run
    assert run is not None
    apart = differences(outputs_of(model.network(), images), run(path, images))
    assert apart.relative <= load_target(target).tolerance
    assert apart.top1_agreement == 100 or apart.relative > 1e-4


@pytest.fixture(scope="module")
def model(make_small: Tiny, make_model: Make) -> Model:
    return make_model(make_small())


@pytest.fixture(scope="module")
def files(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a target to the file of a small network, which is written once."""
    made: dict[str, Path] = {}

    def get(target: str) -> Path:
        if target not in made:
            made[target] = exported(target, model, tmp_path_factory.mktemp(target))
        return made[target]

    return get


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_a_file_gives_what_the_network_gives(target: str, model: Model, files: Files) -> None:
    check(target, model, files(target))


def test_other_sizes_and_the_segmentation_head(
    make_small: Tiny, make_model: Make, tmp_path: Path
) -> None:
    model = make_model(make_small(resolution=(64, 96), head=FPNHead(5)))
    path = exported("onnx", model, tmp_path)
    check("onnx", model, path)
    assert onnx_target.run(path, random_images((64, 96))[:1]).shape == (1, 5, 8, 12)


def test_the_segmentation_head_in_core_ml(
    make_small: Tiny, make_model: Make, tmp_path: Path
) -> None:
    model = make_model(make_small(resolution=(64, 96), head=FPNHead(5)))
    path = exported("coreml", model, tmp_path)
    spec = ct.utils.load_spec(str(path))
    assert [output.name for output in spec.description.output] == ["scores"]
    assert list(spec.description.output[0].type.multiArrayType.shape) == [1, 5, 8, 12]
    assert coreml.inspect(path, model)["image"] == [64, 96, "RGB"]


def test_onnx_keeps_what_keeps_a_division_from_dividing_by_0(
    make_small: Tiny, make_model: Make, tmp_path: Path
) -> None:
    """The exporter's own optimiser drops the addition of 1e-15: where nothing is attended to, 0 / 0
    resulted."""
    model = make_model(make_small(EfficientViTModule(expansion=2, head_dim=8)))
    model.state["stage3_block1.attention.qkv.weight"].zero_()
    check("onnx", model, exported("onnx", model, tmp_path))


def test_onnx_metadata(model: Model, files: Files) -> None:
    path = files("onnx")
    assert [child.name for child in path.parent.iterdir()] == ["model.onnx"], (
        "no weights beside the file"
    )
    proto = onnx.load(str(path))
    onnx.checker.check_model(proto, full_check=True)
    said = {each.key: each.value for each in proto.metadata_props}
    assert tuple(json.loads(said["classes"])) == model.classes
    assert json.loads(said["mean"]) == [0.485, 0.456, 0.406] and json.loads(said["std"]) == [
        0.229,
        0.224,
        0.225,
    ]
    assert said["name"] == "small_net" and said["input"].startswith("RGB pixels from 0 to 255")
    assert not [node for node in proto.graph.node if node.op_type == "BatchNormalization"], "folded"


def test_litert_metadata_is_in_the_file(model: Model, files: Files) -> None:
    with zipfile.ZipFile(files("litert")) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(model.classes)
        said = json.loads(archive.read("metadata.json"))
    assert said["name"] == "small_net" and said["mean"] == [0.485, 0.456, 0.406]
    interpreter = Interpreter(model_path=str(files("litert")))
    assert interpreter.get_input_details()[0]["shape"].tolist() == [
        1,
        32,
        32,
        3,
    ], "as a camera has it"


def test_litert_in_8_bits_takes_pixels(model: Model, tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(40, 200, (8, 3, 32, 32), dtype=np.uint8)
    path = exported("litert-int8", replace(model, calibration=images), tmp_path)
    (taken,) = Interpreter(model_path=str(path)).get_input_details()
    assert taken["dtype"] == np.int8 and taken["quantization"] == (
        1.0,
        -128,
    ), "a pixel less 128, whatever the images"
    apart = differences(outputs_of(model.network(), images), litert.run(path, images))
    assert 0 < apart.relative < 0.5 and apart.top1_agreement == 100
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(model.classes)
        said = json.loads(archive.read("metadata.json"))
    assert said["input_quantization"] == {"type": "int8", "scale": 1.0, "zero_point": -128}
    assert said["input"].startswith("RGB pixels, NHWC, int8: stored = pixel / 1 + -128")
    (given,) = Interpreter(model_path=str(path)).get_output_details()
    scale, zero_point = given["quantization"]
    assert said["output_quantization"] == {
        "type": "int8",
        "scale": pytest.approx(scale),
        "zero_point": zero_point,
    }
    assert said["output"].startswith("logits (1, classes), int8: stored = value / ")


def test_core_ml_takes_an_image_and_gives_a_label(model: Model, files: Files) -> None:
    found = coreml.inspect(files("coreml"), model)
    assert found == {
        "specification": 7,
        "image": [32, 32, "RGB"],
        "types": ["FLOAT16"],
        "labels": 3,
    }
    spec = ct.utils.load_spec(str(files("coreml")))
    image = spec.description.input[0]
    assert image.name == "image" and image.type.WhichOneof("Type") == "imageType"
    assert spec.description.predictedFeatureName == "classLabel"
    assert [output.name for output in spec.description.output] == ["classLabel", "classLabel_probs"]
    about = spec.description.metadata
    assert (about.author, about.versionString, about.shortDescription) == ("nas", "1", "a network")
    assert json.loads(about.userDefined["classes"]) == list(model.classes)
    kinds = [operation.type for operation in coreml.operations(spec)]
    assert kinds.count("batch_norm") == 1, (
        "the normalisation of pixels; those of the network are folded"
    )
    assert {"softmax", "classify"} <= set(kinds)


def test_core_ml_that_is_not_what_was_asked_for_is_refused(
    model: Model, files: Files, make_small: Tiny, make_model: Make
) -> None:
    with pytest.raises(NasError, match=r"labels 3, expected 4"):
        coreml.inspect(files("coreml"), make_model(make_small(head=TokenHead(4))))
    with pytest.raises(NasError, match=r"image \[32, 32, 'RGB'\], expected \[64, 32, 'RGB'\]"):
        coreml.inspect(files("coreml"), make_model(make_small(resolution=(64, 32))))
    with pytest.raises(NasError, match="class labels differ"):
        coreml.inspect(files("coreml"), replace(model, classes=("a", "b", "c")))


def test_core_ml_weights_in_8_bits_are_smaller(model: Model, files: Files, tmp_path: Path) -> None:
    path = exported("coreml-int8", model, tmp_path)
    assert coreml.inspect(path, model)["labels"] == 3
    quantised, plain = (size(next(each.rglob("weight.bin"))) for each in (path, files("coreml")))
    assert quantised < plain, "tables of biases and what is small stay as they are"
    assert "constexpr_affine_dequantize" in {
        each.type for each in coreml.operations(ct.utils.load_spec(str(path)))
    }


def test_torch_goes_on_training(tiny: Tiny, make_model: Make, tmp_path: Path) -> None:
    model = make_model(tiny("efficientformer_l1", classes=3))
    for target in ("config", "torch"):
        exported(target, model, tmp_path)
    net = nas.build(nas.load_architecture(tmp_path / "architecture.yaml"))
    state = load_state_dict(tmp_path / "model.safetensors")
    net.load_state_dict(state, strict=True)
    assert "head.distilled.weight" in state and any(
        name.endswith("norm.running_var") for name in state
    )
    images = random_images((64, 64))
    np.testing.assert_array_equal(
        outputs_of(net.eval(), images), outputs_of(model.network(), images)
    )


def test_model_comes_back_from_its_files(tiny: Tiny, make_model: Make, tmp_path: Path) -> None:
    images = random_images((32, 32))
    model = replace(make_model(tiny("emo_1m", 32)), calibration=images)
    model.save(tmp_path)
    found = Model.load(tmp_path)
    assert (found.architecture, found.classes, found.about) == (
        model.architecture,
        model.classes,
        model.about,
    )
    assert found.calibration is not None and np.array_equal(found.calibration, images)
    assert found.state.keys() == model.state.keys()
    assert all(torch.equal(found.state[name], value) for name, value in model.state.items())


def test_targets_are_chosen_in_order_with_what_they_need() -> None:
    assert chosen(["litert", "torch"]) == ["config", "torch", "litert"]
    assert chosen(TARGETS) == list(TARGETS)
    with pytest.raises(
        InputError, match="--to litter: unknown export target, did you mean 'litert'"
    ):
        chosen(["litter"])
    with pytest.raises(InputError, match="--to: name at least one of config"):
        chosen([])


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_names_a_file_of_its_own(name: str) -> None:
    others = {load_target(other).file for other in TARGETS if other != name}
    assert load_target(name).file not in others


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (np.zeros((2, 4)), r"shape \[2, 4\] \(expected \[2, 3\]"),
        (np.full((2, 3), np.nan), "100 % of its outputs"),
    ],
)
def test_outputs_that_cannot_be_compared(found: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        differences(np.zeros((2, 3), np.float32), found)


def test_differences_by_hand() -> None:
    expected = np.array([[0.0, 2.0], [4.0, 2.0]], np.float32)
    found = differences(expected, expected + np.array([[0.0, 0.0], [-4.0, 0.0]], np.float32))
    assert (found.images, found.max_abs, found.mean_abs) == (2, 4.0, 1.0)
    assert found.relative == pytest.approx(2 / np.sqrt(2), rel=1e-3), (
        "sqrt(16 / 4) over the deviation of 0, 2, 4, 2"
    )
    assert found.top1_agreement == 50


@pytest.mark.parametrize(("target", "bits"), [("coreml-palette6", 6), ("coreml-palette4", 4)])
def test_core_ml_weights_from_a_palette_are_smaller(
    target: str, bits: int, model: Model, files: Files, tmp_path: Path
) -> None:
    path = exported(target, model, tmp_path)
    inspect = load_target(target).inspect
    assert inspect is not None
    found = inspect(path, model)
    assert found["bits"] == bits
    assert found["palettes"] > 0
    assert found["types"] == ["FLOAT16"], "it computes as the target coreml does"
    palettised, plain = (size(next(each.rglob("weight.bin"))) for each in (path, files("coreml")))
    assert palettised < plain
    with pytest.raises(NasError, match=r"no palettised weights \(got 0"):
        inspect(files("coreml"), model)


def test_onnx_has_no_newer_a_container_than_its_operators_need(files: Files) -> None:
    """onnxruntime 1.14 to 1.17 refuse a newer one, although they know every operator in it."""
    proto = onnx.load(str(files("onnx")))
    assert proto.ir_version == onnx.helper.find_min_ir_version_for(list(proto.opset_import)) == 8
