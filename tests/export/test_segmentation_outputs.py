"""Files of segmentation networks: scores or labels, what they say of themselves, how they are compared."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import coremltools as ct
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from nas.blocks import FPNHead
from nas.data.palette import colours, palette
from nas.errors import InputError
from nas.export import load_target
from nas.export.compare import differences, labels_of, miou, outputs_of, random_images
from nas.export.images import RealImages, load_images
from nas.export.target import Model
from nas.export.targets import coreml
from nas.space import Architecture

SIZE = (64, 96)
Make = Callable[[Architecture], Model]
Small = Callable[..., Architecture]


@pytest.fixture
def model(make_small: Small, make_model: Make) -> Model:
    """A segmentation network whose files give labels."""
    model = make_model(make_small(resolution=SIZE, head=FPNHead(5, width=16)))
    # The classes of random weights differ by a constant, which would win everywhere.
    mean = outputs_of(model.network(), random_images(SIZE)).mean(axis=(0, 2, 3))
    state = model.state | {"head.classifier.bias": model.state["head.classifier.bias"] - mean}
    return replace(model, state=state, output="labels")


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_a_file_gives_the_labels_of_the_network(target: str, model: Model, tmp_path: Path) -> None:
    format_ = load_target(target)
    path = tmp_path / format_.file
    format_.write(model, path)
    images = random_images(SIZE)
    network = model.network()
    scores = torch.from_numpy(outputs_of(network, images))
    expected = F.interpolate(scores, size=SIZE, mode="bilinear").argmax(dim=1).numpy()
    assert format_.run is not None and format_.read is not None
    found = format_.run(path, images)
    assert found.shape == (len(images), *SIZE) and len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999
    assert differences(expected.astype(np.float32), found).relative is None
    contents = format_.read(path)
    assert contents.dense and contents.resolution == SIZE and contents.classes == model.classes


def test_metadata_names_output_and_colours(model: Model, tmp_path: Path) -> None:
    for output, words in (("labels", "labels (1, H, W), int32"), ("scores", "scores (1, ")):
        asked = replace(model, output=output)
        load_target("onnx").write(asked, tmp_path / f"{output}.onnx")
        proto = onnx.load(str(tmp_path / f"{output}.onnx"))
        about = {each.key: each.value for each in proto.metadata_props}
        assert about["output"].startswith(words)
        assert json.loads(about["colours"]) == colours(5)
    load_target("litert").write(model, tmp_path / "labels.tflite")
    with zipfile.ZipFile(tmp_path / "labels.tflite") as archive:
        about = json.loads(archive.read("metadata.json"))
    assert about["output"].startswith("labels (1, H, W), int32") and about["colours"] == colours(5)


def test_core_ml_has_the_image_segmenters_preview(model: Model, tmp_path: Path) -> None:
    for asked, shape in ((model, [1, *SIZE]), (replace(model, output="scores"), [1, 5, 8, 12])):
        path = tmp_path / f"{asked.output}.mlpackage"
        load_target("coreml").write(asked, path)
        spec = ct.utils.load_spec(str(path))
        (output,) = spec.description.output
        assert output.name == asked.output and list(output.type.multiArrayType.shape) == shape
        about = spec.description.metadata.userDefined
        assert about["com.apple.coreml.model.preview.type"] == "imageSegmenter"
        params = json.loads(about["com.apple.coreml.model.preview.params"])
        assert params == {"labels": list(asked.classes), "colors": colours(5)}
        assert coreml.inspect(path, asked)["labels"] == 0


def test_colours_are_pascal_vocs_and_differ() -> None:
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert [tuple(each) for each in palette(6).tolist()] == first
    assert tuple(palette(21)[20]) == (0, 64, 128)
    assert len(set(colours(256))) == 256


def test_miou_is_that_of_the_task() -> None:
    masks = np.array([[[0, 1], [255, 1]]], dtype=np.uint8)
    labels = np.array([[[0, 1], [0, 0]]], dtype=np.float32)
    # Class 0: 1 of 2 pixels, class 1: 1 of 2; the ignored pixel does not count.
    assert miou(labels, masks, 2) == pytest.approx(50)
    scores = np.zeros((1, 2, 1, 1), dtype=np.float32)
    scores[:, 1] = 1
    assert (labels_of(scores, (2, 2)) == 1).all()


def test_scenes_are_loaded_with_their_masks_and_named_as_the_network() -> None:
    real = load_images("digit-scenes", (64, 64), 6, 4, masks=True)
    masks = np.asarray(real.evaluated.masks)
    assert masks.shape == (6, 64, 64)
    order = (*real.evaluated.classes[1:], "background")
    again = real.labelled_by(order)
    assert isinstance(again, RealImages) and again.evaluated.classes == order
    renamed = np.asarray(again.evaluated.masks)
    assert ((renamed == 255) == (masks == 255)).all()
    assert ((renamed == 10) == (masks == 0)).all() and ((renamed == 0) == (masks == 1)).all()


def test_labels_of_a_classifier_are_refused(tmp_path: Path) -> None:
    from nas.export.command import export

    with pytest.raises(InputError, match=r"output.*has no effect on a classifier"):
        export("emo_1m", "config", output="labels", out=str(tmp_path))
