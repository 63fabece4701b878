"""Accuracy, and the batch-norm statistics that belong to the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas.data import Splits
from nas.network import build
from nas.space import Architecture
from nas.tasks.classify import accuracy_error
from nas.training.batches import normalise
from nas.training.evaluate import Accuracy, accuracy_of, calibrate, resized


def test_accuracy_is_the_share_of_right_answers_with_its_standard_error(
    small: Architecture, digits: Splits
) -> None:
    network = build(small)
    data = digits.held_out
    with torch.no_grad():
        answers = (
            network.eval()(normalise(torch.from_numpy(np.array(data.images)))).argmax(dim=1).numpy()
        )
    labels = np.where(np.arange(len(data)) % 4 == 0, (answers + 1) % 10, answers)
    wrong = int((labels != answers).sum())
    accuracy = 100 * (1 - wrong / len(data))
    found = accuracy_of(network.train(), replace(data, labels=labels), batch=7)
    error = accuracy_error(accuracy, len(data))
    assert found == Accuracy(round(accuracy, 3), round(error, 3), len(data))


def test_calibrated_statistics_are_those_of_the_training_images(
    small: Architecture, digits: Splits
) -> None:
    network = build(small)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.fill_(7.0)  # type: ignore[union-attr]
    calibrate(network, digits.train)
    assert not network.training
    images = normalise(torch.from_numpy(np.array(digits.train.images)))
    before = []
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    first.register_forward_pre_hook(lambda module, inputs: before.append(inputs[0]))
    with torch.no_grad():
        network(images)
    torch.testing.assert_close(
        first.running_mean, before[0].mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        first.running_var, before[0].var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )


def test_a_calibrated_network_answers_for_its_batch_as_in_training_mode(
    small: Architecture, digits: Splits
) -> None:
    network = build(small)
    calibrate(network, digits.train)
    images = normalise(torch.from_numpy(np.array(digits.train.images)))
    with torch.no_grad():
        answers = network(images)
        first, second = network.train()(images)
    torch.testing.assert_close(answers, (first + second) / 2, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("side", [16, 64])
def test_images_are_resized_for_a_network_of_another_size(
    small: Architecture, digits: Splits, side: int
) -> None:
    images = torch.rand(2, 3, 32, 32)
    assert resized(images, (32, 32)) is images
    assert resized(images, (side, side)).shape == (2, 3, side, side)
    if side == 64:
        assert accuracy_of(build(small.at(side)), digits.held_out).images == len(digits.held_out)
