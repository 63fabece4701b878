"""Segmentation as a task: its metric against scikit-learn's, its errors, and a loss that stays finite."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import Tensor

from nas.blocks import SPECS, FPNHead, HeadSpec, TokenHead
from nas.data.images import IGNORED
from nas.tasks import TASKS, metric_words, task_of
from nas.tasks.classify import CLASSIFICATION
from nas.tasks.segment import SEGMENTATION


def maps(
    seed: int, classes: int, images: int = 5, absent: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Return scores (B, classes, 6, 8) and masks (B, 12, 16) with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, classes, 6, 8, generator=generator)
    masks = torch.randint(classes, (images, 12, 16), generator=generator)
    for kind in absent:
        scores[:, kind] = -9.0
        masks[masks == kind] = IGNORED
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = IGNORED
    return scores, masks


def answers_of(scores: Tensor, masks: Tensor) -> NDArray[np.int64]:
    """Return the class of each pixel, upsampled by code of its own."""
    resized = torch.nn.Upsample(size=masks.shape[1:], mode="bilinear")(scores)
    return resized.argmax(dim=1).numpy()


@pytest.mark.parametrize("absent", [(), (1,), (0, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_miou_is_that_of_scikit_learn(seed: int, absent: tuple[int, ...]) -> None:
    scores, masks = maps(seed, classes=5, absent=absent)
    figure = SEGMENTATION.figure(SEGMENTATION.tally(scores, masks).numpy())
    answers = answers_of(scores, masks)
    labels = masks.numpy()
    counted = labels != IGNORED
    expected = jaccard_score(labels[counted], answers[counted], average="macro")
    assert figure.value == pytest.approx(100 * expected, abs=1e-6)
    matrix = confusion_matrix(labels[counted], answers[counted], labels=range(5))
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    for kind, value in enumerate(figure.by_class):
        if kind in absent:
            assert value is None and union[kind] == 0
        else:
            assert value == pytest.approx(100 * matrix[kind, kind] / union[kind], abs=1e-6)


def test_tallies_of_parts_add_up_to_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, masks = maps(3, classes=4, images=7)
    whole = SEGMENTATION.tally(scores, masks)
    assert whole.shape == (7, *SEGMENTATION.tally_shape(4))
    parts = [SEGMENTATION.tally(scores[i : i + 2], masks[i : i + 2]) for i in range(0, 7, 2)]
    assert torch.equal(torch.cat(parts), whole)
    monkeypatch.setattr("nas.tasks.segment._MOST_SCORES", 1)
    assert torch.equal(SEGMENTATION.tally(scores, masks), whole)


def test_its_standard_error_is_the_jackknifes() -> None:
    scores, masks = maps(0, classes=4, images=9)
    tally = SEGMENTATION.tally(scores, masks).numpy()
    without = np.array(
        [SEGMENTATION.figure(np.delete(tally, i, axis=0)).value for i in range(len(tally))]
    )
    jackknife = math.sqrt(8 / 9 * float(np.square(without - without.mean()).sum()))
    floor = 1 / (9 + 2)
    assert SEGMENTATION.figure(tally).standard_error == pytest.approx(math.hypot(jackknife, floor))
    # A paired difference is known better than each of its two figures, and never perfectly.
    other = scores.clone()
    other[:, 0] += 0.05
    after = SEGMENTATION.tally(other, masks).numpy()
    change = SEGMENTATION.difference(tally, after)
    assert floor < change.standard_error < SEGMENTATION.figure(tally).standard_error / 2
    assert change.lost is None and change.gained is None
    assert SEGMENTATION.difference(tally, tally).standard_error == pytest.approx(floor)


def test_a_class_of_a_single_image_does_not_blow_the_error_up() -> None:
    masks = torch.zeros(6, 4, 4, dtype=torch.long)
    masks[:, 0] = 1
    masks[0, 1] = 2
    scores = torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2).float()
    scores[1, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    figure = SEGMENTATION.figure(SEGMENTATION.tally(scores, masks).numpy())
    assert figure.by_class[2] == 100 and figure.standard_error < 2


def test_everything_stays_finite_where_nothing_is_labelled() -> None:
    scores, masks = maps(1, classes=3)
    masks[:] = IGNORED
    scores.requires_grad_()
    loss, _ = SEGMENTATION.loss(scores, masks)
    loss.backward()
    assert loss == 0 and scores.grad is not None and bool(scores.grad.isfinite().all())
    tally = SEGMENTATION.tally(scores, masks).numpy()
    figure = SEGMENTATION.figure(tally)
    assert figure.value == 0 and math.isfinite(figure.standard_error)
    assert set(figure.by_class) == {None}
    assert SEGMENTATION.losses(scores, masks).tolist() == [0, 0]
    assert SEGMENTATION.right(scores, masks) == 0
    assert math.isfinite(SEGMENTATION.difference(tally[:1], tally[:1]).standard_error)


def test_the_loss_is_a_cross_entropy_that_adds_up_over_parts_of_a_batch() -> None:
    scores, masks = maps(2, classes=4, images=6)
    masks[0] = IGNORED
    loss, returned = SEGMENTATION.loss(scores, masks)
    resized = torch.nn.Upsample(size=masks.shape[1:], mode="bilinear")(scores).permute(0, 2, 3, 1)
    counted = masks != IGNORED
    log = resized[counted].log_softmax(dim=1)
    total = -log[torch.arange(len(log)), masks[counted]].sum()
    assert float(loss) == pytest.approx(float(total) / masks.numel(), rel=1e-5)
    assert returned is scores
    parts = [
        SEGMENTATION.loss(scores[a:b], masks[a:b])[0] * (b - a) / 6 for a, b in ((0, 1), (1, 6))
    ]
    assert float(sum(parts)) == pytest.approx(float(loss), rel=1e-5)
    sums = SEGMENTATION.losses(scores, masks)
    assert sums.tolist() == pytest.approx([float(total), int(counted.sum())], rel=1e-5)


def test_right_pixels_count_as_shares_of_their_images() -> None:
    masks = torch.tensor([[[0, 1], [IGNORED, 1]], [[1, 1], [1, 1]]])
    answers = torch.tensor([[[0, 1], [0, 0]], [[1, 0], [0, 0]]])
    scores = torch.nn.functional.one_hot(answers, 2).permute(0, 3, 1, 2).float()
    assert float(SEGMENTATION.right(scores, masks)) == pytest.approx(2 / 3 + 1 / 4)


def test_a_head_knows_its_task() -> None:
    heads = [spec for spec in SPECS.values() if issubclass(spec, HeadSpec)]
    assert {task_of(head).name for head in heads} == set(TASKS)  # type: ignore[arg-type]
    assert [metric_words(task.metric) for task in TASKS.values()] == ["top-1", "mIoU"]
    own = FPNHead(19, width=32)
    assert SEGMENTATION.head(own, 5, depth=2) == FPNHead(5, width=32, depth=2)
    assert SEGMENTATION.head(TokenHead(10), 5, width=8, depth=None) == FPNHead(5, width=8)
    assert CLASSIFICATION.head(TokenHead(10), 5) == TokenHead(5)


def test_words_and_errors_need_no_torch() -> None:
    program = (
        "import sys; from nas.tasks import TASKS, metric_words; metric_words('miou');"
        " list(TASKS.values()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
