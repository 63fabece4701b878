"""A supernet with a head of dense prediction: trained, stored, and scored in points of mIoU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.accuracy import RecordedScores, load_scores
from nas.accuracy.single_moves import LARGEST, variants
from nas.blocks import FPNHead
from nas.data import ImageData, Splits
from nas.data.images import IGNORED
from nas.errors import InputError
from nas.space import Space
from nas.supernet.checkpoint import Folder, load_supernet
from nas.supernet.options import Recipe
from nas.supernet.score import score
from nas.supernet.sensitivity import Evaluator
from nas.supernet.supernet import Supernet
from nas.supernet.train import train
from nas.tasks.segment import SEGMENTATION
from nas.training.evaluate import accuracy_of, calibrate

CLASSES = 3


def images(count: int, seed: int, side: int = 64) -> ImageData:
    """Return images in which each quarter has the brightness of its class, with some noise."""
    rng = np.random.default_rng(seed)
    quarters = rng.integers(0, CLASSES, (count, 2, 2))
    masks = quarters.repeat(side // 2, axis=1).repeat(side // 2, axis=2).astype(np.uint8)
    pixels = 40 + 80 * masks[:, None] + rng.integers(0, 20, (count, 3, side, side))
    masks[rng.random(masks.shape) < 0.1] = IGNORED
    return ImageData(
        pixels.clip(0, 255).astype(np.uint8),
        np.zeros(count, dtype=np.int64),
        tuple("abc"),
        0,
        "quarters",
        f"quarters {seed}",
        masks=masks,
    )


@torch.no_grad()
def lively(space: Space) -> Supernet:
    """Return a supernet whose scales, biases and norms differ from one another."""
    torch.manual_seed(0)
    supernet = Supernet(space)
    for name, tensor in supernet.named_parameters():
        # Biases above all scores would make every member answer with one class.
        if name.endswith("classifier.bias"):
            tensor.zero_()
        elif tensor.dim() == 1:
            tensor.uniform_(0.3, 1.2)
    return supernet.eval()


@pytest.fixture
def space(small_space: Callable[[str], Space]) -> Space:
    return small_space("network_suffix").at((64, 64)).with_head(FPNHead(CLASSES, width=8))


def test_scores_are_those_of_each_member_alone(space: Space) -> None:
    supernet = lively(space)
    calibration, held_out = images(24, 0), images(10, 1)
    evaluator = Evaluator(supernet, calibration, held_out, batch=4)
    wanted = variants(space, widths=2)
    found = {row.key: row for row in evaluator.evaluate(wanted)}
    assert set(found) == {each.key for each in wanted}
    for variant in wanted[:: len(wanted) // 5]:
        network = supernet.extract(variant.arch)
        calibrate(network, calibration)
        alone = accuracy_of(network, held_out)
        assert found[variant.key].accuracy == pytest.approx(alone.accuracy, abs=0.02)
        assert found[variant.key].standard_error > 0 and found[variant.key].lost is None
    assert len({row.accuracy for row in found.values()}) > 3


def test_it_is_trained_and_scored_and_read_again(space: Space, tmp_path: Path) -> None:
    recipe = Recipe(epochs=4, batch=8, learning_rate=4e-3, flip=False, label_smoothing=0.0)
    train_data, held_out = images(48, 0), images(12, 1)
    folder = train(space, train_data, recipe, tmp_path / "out", held_out=held_out)
    rows = folder.metrics.read_text().splitlines()
    assert float(rows[-1].split(",")[-2]) > 50, rows[-1]
    supernet, description = load_supernet(folder.root)
    assert supernet.space.heads == space.heads
    assert description["head"] == FPNHead(CLASSES, width=8).to_dict()
    assert description["recipe"]["augmentation"] == {"shift": 0.125}
    scores = score(folder, Splits(train_data, held_out, None), widths=2)
    assert scores is not None
    read = load_scores(folder.root)
    assert isinstance(read, RecordedScores) and read.metric == "miou"
    assert read.accuracy(space.largest()).metric == "miou"
    largest = supernet.extract(space.largest())
    calibrate(largest, train_data)
    assert read.baseline_accuracy == pytest.approx(
        accuracy_of(largest, held_out).accuracy, abs=0.02
    )
    # Points of mIoU are none of top-1.
    with pytest.raises(InputError, match=r"scores of metric 'miou', expected 'top1'"):
        read.check_evidence(metric="top1")
    other = space.with_head(FPNHead(CLASSES, width=16))
    with pytest.raises(InputError, match=r"this folder holds another training"):
        train(other, train_data, recipe, folder.root)


def test_the_sandwich_rule_teaches_maps(space: Space, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch=8, sandwich=1, narrow=0.0, label_smoothing=0.0)
    folder = train(space, images(16, 0), recipe, tmp_path / "out")
    assert Folder(folder.root).weights.exists()


def test_targets_of_another_task_are_refused(space: Space, tmp_path: Path) -> None:
    labelled = images(8, 0)
    labelled = ImageData(
        labelled.images, labelled.labels, labelled.classes, 0, "no masks", "no masks"
    )
    with pytest.raises(InputError, match=r"have no masks.* Fix: leave out --segment"):
        train(space, labelled, Recipe(), tmp_path / "a")
    with pytest.raises(InputError, match=r"mixup=0.2: has no effect on segmentation"):
        train(space, images(8, 0), Recipe(mixup=0.2), tmp_path / "b")


def test_the_largest_members_figure_has_every_class(space: Space) -> None:
    supernet = lively(space)
    held_out = images(6, 1)
    (row,) = (
        row
        for row in Evaluator(supernet, images(8, 0), held_out).evaluate(variants(space, 2))
        if row.key == LARGEST
    )
    network = supernet.extract(space.largest())
    calibrate(network, images(8, 0))
    found = accuracy_of(network, held_out)
    assert len(found.by_class) == CLASSES
    assert found.accuracy == pytest.approx(
        np.mean([each for each in found.by_class if each is not None]), abs=1e-2
    )
    assert row.accuracy == pytest.approx(found.accuracy, abs=0.05)
    assert SEGMENTATION.metric == "miou"
