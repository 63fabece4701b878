"""Who teaches: the supernet's largest member, or any network with weights for the same classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nas.data import Splits
from nas.errors import InputError, NasError
from nas.finetune.teacher import load_teacher
from nas.network import Network
from nas.runs.resolve import Subject, find_subject
from nas.runs.trained_on import TrainedOn
from nas.space import Architecture, Space
from nas.supernet.options import Recipe
from nas.supernet.train import train
from nas.training.batches import normalise
from nas.training.evaluate import accuracy_of

Seeded = Callable[..., Network]


@pytest.fixture
def supernet(small_space: Callable[[str], Space], digits: Splits, tmp_path: Path) -> Path:
    """A training's folder."""
    recipe = Recipe(epochs=12, batch=32, flip=False)
    return train(
        small_space("network_suffix").at(32), digits.train, recipe, tmp_path / "supernet"
    ).root


def test_the_largest_member_of_the_runs_supernet_has_learned_and_is_told_by_its_file(
    supernet: Path,
    small: Architecture,
    small_space: Callable[[str], Space],
    seeded: Seeded,
    digits: Splits,
    make_run: Callable[..., Path],
) -> None:
    run = make_run(small, seeded(small), supernet=str(supernet))
    teacher = load_teacher("supernet", None, find_subject(run), digits.train)
    assert teacher.network.architecture == small_space("network_suffix").at(32).largest()
    assert not teacher.network.training
    assert accuracy_of(teacher.network, digits.held_out).accuracy > 50, (
        "its batch norms have statistics of their own"
    )
    assert (
        teacher.about["file"] == str(supernet / "supernet.safetensors")
        and len(teacher.about["sha256"]) == 64
    )
    by_folder = load_teacher(str(supernet), None, Subject(small), digits.train)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(by_folder(images), teacher(images))


def test_a_teacher_for_larger_images_gets_larger_ones(
    small: Architecture, seeded: Seeded, digits: Splits, tmp_path: Path
) -> None:
    arch = small.at(64)
    network = seeded(small.at(64))
    arch.save(tmp_path / "teacher.yaml")
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    subject = Subject(small)
    teacher = load_teacher(
        str(tmp_path / "teacher.yaml"), tmp_path / "teacher.safetensors", subject, digits.train
    )
    images = normalise(torch.from_numpy(np.array(digits.train.images[:4])))
    larger = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(teacher(images), network.eval()(larger))
    assert not teacher(images).requires_grad
    assert teacher.about["resolution"] == [64, 64] and teacher.about["name"] == "small_s"


def test_what_cannot_teach_is_told(
    small: Architecture,
    seeded: Seeded,
    digits: Splits,
    make_run: Callable[..., Path],
    tmp_path: Path,
) -> None:
    run = make_run(small, seeded(small.at(classes=7)), supernet=str(tmp_path / "gone"))
    subject = find_subject(run)
    file = str(run / "architecture.yaml")
    wrong: list[tuple[str, Path | None, Subject, str]] = [
        (file, run / "weights.safetensors", subject, "has 7 classes, the data has 10"),
        (file, None, subject, r"its weights are missing\. Fix: --teacher-weights FILE"),
        (file, tmp_path / "none.safetensors", subject, "there is no such checkpoint file"),
        ("swiftformer_xxs", tmp_path / "x", subject, "did you mean 'swiftformer_xs'"),
        ("supernet", None, subject, "there is no supernet in .*gone, which .*run.yaml names"),
        ("supernet", run / "weights.safetensors", subject, "a supernet has its own weights"),
        ("supernet", None, Subject(small), "an architecture alone has none"),
        ("supernet", None, replace(subject, weights=None), "was searched without --supernet"),
    ]
    for name, weights, of, reason in wrong:
        with pytest.raises(InputError, match=reason):
            load_teacher(name, weights, of, digits.train)


def test_an_unfinished_supernet_does_not_teach(
    supernet: Path, small: Architecture, digits: Splits
) -> None:
    (supernet / "supernet.safetensors").unlink()
    with pytest.raises(NasError, match="is missing, as the training is not finished"):
        load_teacher(str(supernet), None, Subject(small), digits.train)


def test_a_teacher_of_other_class_names_is_refused_and_of_another_order_is_reordered(
    small: Architecture, seeded: Seeded, digits: Splits, tmp_path: Path
) -> None:
    network = seeded(small)
    small.save(tmp_path / "t.yaml")
    file = tmp_path / "t.safetensors"
    save_file(network.state_dict(), file, TrainedOn(digits.train.classes[::-1]).header())
    name = str(tmp_path / "t.yaml")
    with pytest.warns(UserWarning, match="its outputs are reordered to the classes of the data"):
        teacher = load_teacher(name, file, Subject(small), digits.train)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(teacher(images), network.eval()(images).flip(1))
    save_file(network.state_dict(), file, TrainedOn(tuple("abcdefghij")).header())
    with pytest.raises(InputError, match=r"t\.yaml: its classes are 10 \(a, .* data 10 \(0, 1, "):
        load_teacher(name, file, Subject(small), digits.train)
