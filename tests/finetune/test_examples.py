"""Pictures of a segmentation network's answers: which images, what is painted, what is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.blocks import FPNHead
from nas.data import ImageData, Splits
from nas.data.images import IGNORED
from nas.data.palette import palette
from nas.finetune.examples import EXAMPLES, write_examples
from nas.network import Network, build
from nas.space import Architecture

CLASSES = 3


def images(count: int) -> ImageData:
    """Return images of one class each, the lower half of whose masks is ignored."""
    rng = np.random.default_rng(0)
    masks = np.arange(count)[:, None, None] % CLASSES * np.ones((1, 32, 32))
    masks[:, 16:] = IGNORED
    return ImageData(
        rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
        np.zeros(count, dtype=np.int64),
        ("sky", "road", "tree"),
        0,
        "made up",
        "made up",
        masks=masks.astype(np.uint8),
    )


@pytest.fixture
def constant(small: Architecture) -> Network:
    """A network that answers with class 1 everywhere."""
    network = build(small.with_head(FPNHead(CLASSES, width=8))).eval()
    with torch.no_grad():
        classifier = network.get_submodule("head.classifier")
        classifier.weight.zero_()
        classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    return network


@pytest.mark.parametrize("part", ["test", "held_out"])
def test_image_mask_and_answer_are_side_by_side(
    part: str, constant: Network, tmp_path: Path
) -> None:
    data = images(10)
    other = replace(data, images=255 - data.images)
    splits = Splits(other, data, None) if part == "held_out" else Splits(other, other, data)
    found = write_examples(tmp_path, constant, splits)
    assert found["part"] == part and found["classes"] == [0, 1, 2]
    assert [each["image"] for each in found["files"]] == [0, 2, 5, 7]
    # All labelled pixels of an image have the class of its number modulo 3.
    assert [each["right"] for each in found["files"]] == [0.0, 0.0, 0.0, 100.0]
    for each in found["files"]:
        pixels = np.asarray(Image.open(tmp_path / each["file"])).astype(int)
        assert pixels.shape == (32, 3 * 32 + 2 * 4, 3)
        image = data.images[each["image"]].transpose(1, 2, 0).astype(int)
        truth, answer = pixels[:, 36:68], pixels[:, 72:]
        assert (pixels[:, :32] == image).all() and (pixels[:, 32:36] == 255).all()
        assert (truth[16:] == image[16:]).all(), "ignored pixels stay as they are"
        colours = palette(CLASSES).astype(int)
        own = 0.4 * image[:16] + 0.6 * colours[each["image"] % CLASSES]
        assert np.abs(truth[:16] - own).max() <= 0.5
        assert np.abs(answer - (0.4 * image + 0.6 * colours[1])).max() <= 0.5


def test_fewer_images_than_pictures_and_images_without_labels(
    constant: Network, tmp_path: Path
) -> None:
    data = images(2)
    assert data.masks is not None
    data = replace(data, masks=np.full_like(data.masks, IGNORED))
    found = write_examples(tmp_path, constant, Splits(data, data, None))
    assert len(found["files"]) == 2 < EXAMPLES
    assert [each["right"] for each in found["files"]] == [None, None]
    assert found["classes"] == [1]
