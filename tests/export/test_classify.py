"""A photo classified by an exported file, with the labels and the preprocessing in the file."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.blocks import FPNHead
from nas.errors import InputError
from nas.export import TARGETS, load_target
from nas.export.classify import SUFFIXES, classify
from nas.export.compare import outputs_of
from nas.export.target import Model
from nas.space import Architecture

Make = Callable[..., Model]
Tiny = Callable[..., Architecture]


@pytest.fixture(scope="module")
def model(make_small: Tiny, make_model: Make) -> Model:
    model = make_model(make_small())
    images = np.random.default_rng(2).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    about = {**model.about, "background": "black"}
    return replace(model, about=about, calibration=images)


@pytest.fixture(scope="module")
def files(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a target to the file of a small network, which is written once."""
    made: dict[str, Path] = {}

    def get(target: str) -> Path:
        if target not in made:
            path = tmp_path_factory.mktemp(target) / load_target(target).file
            load_target(target).write(model, path)
            made[target] = path
        return made[target]

    return get


def photo(folder: Path, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(folder / "cat.png")
    return folder / "cat.png"


def expected(model: Model, pixels: np.ndarray) -> tuple[str, ...]:
    """The classes by their logits, best first."""
    logits = outputs_of(model.network(), pixels.transpose(2, 0, 1)[None])[0]
    return tuple(model.classes[index] for index in np.argsort(-logits))


RUNS = [name for name in TARGETS if load_target(name).read is not None]


@pytest.mark.parametrize("target", RUNS)
def test_the_file_gives_the_networks_own_classes(
    target: str, model: Model, files: Callable[[str], Path], tmp_path: Path
) -> None:
    image = photo(tmp_path)
    found = classify(files(target), image, top=2)
    # In int8 logits that lie close together may change places.
    count = 1 if load_target(target).calibrated else 2
    labels = tuple(guess.label for guess in found.guesses)
    assert labels[:count] == expected(model, np.asarray(Image.open(image)))[:count]
    assert found.resolution == (32, 32)
    assert (found.classes, found.network) == (3, "small_net")
    assert 0 < found.guesses[1].probability < found.guesses[0].probability < 1
    everything = classify(files(target), image, top=99)
    assert sum(guess.probability for guess in everything.guesses) == pytest.approx(1)


def test_a_photo_is_prepared_as_in_training(
    model: Model, files: Callable[[str], Path], tmp_path: Path
) -> None:
    """It is cropped, and its transparent pixels are laid on the background of the training."""
    image = photo(tmp_path, (48, 32), "RGBA")
    found = classify(files("onnx"), image)
    black = Image.new("RGBA", (48, 32), "black")
    black.alpha_composite(Image.open(image))
    pixels = np.asarray(black.convert("RGB"))[:, 8:40]
    assert tuple(guess.label for guess in found.guesses) == expected(model, pixels)
    assert found.oddities == ("transparent",)


def test_every_suffix_of_a_target_that_classifies_is_known() -> None:
    for name in RUNS:
        assert name in SUFFIXES[Path(load_target(name).file).suffix]


def test_what_cannot_classify_is_refused(
    files: Callable[[str], Path], make_small: Tiny, make_model: Make, tmp_path: Path
) -> None:
    image = photo(tmp_path)
    (tmp_path / "net.tflite").write_bytes(b"no model")
    (tmp_path / "net.onnx").write_bytes(b"no model")
    (tmp_path / "net.mlpackage").mkdir()
    (tmp_path / "net.pb").write_bytes(b"")
    for name, message in (
        ("net.tflite", r"net\.tflite: is not a \.tflite file of `nas export`"),
        ("net.onnx", r"net\.onnx: is not an \.onnx file of `nas export`"),
        ("net.mlpackage", r"runs on Apple's systems alone"),
        ("net.pb", r"got \.pb, expected \.tflite or \.onnx"),
        ("missing.onnx", r"missing\.onnx: does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            classify(tmp_path / name, image)
    with pytest.raises(InputError, match=r"net\.pb: cannot be decoded"):
        classify(files("onnx"), tmp_path / "net.pb")
    with pytest.raises(InputError, match=r"photo\.jpg: is not a file"):
        classify(files("onnx"), tmp_path / "photo.jpg")
    dense = make_model(make_small(resolution=(64, 64), head=FPNHead(5)))
    load_target("onnx").write(dense, tmp_path / "dense.onnx")
    with pytest.raises(InputError, match="gives scores per pixel"):
        classify(tmp_path / "dense.onnx", image)


def test_labels_that_do_not_fit_the_outputs_are_refused(
    files: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(files("litert").read_bytes())
    with zipfile.ZipFile(path) as archive:
        about = archive.read("metadata.json")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"PK\x03\x04")])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "only\n")
        archive.writestr("metadata.json", about)
    with pytest.raises(InputError, match="has 1 class names for 3 outputs"):
        classify(path, photo(tmp_path))


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ("[1, 2]", r"is not a \.tflite file of `nas export`"),
        ("[" * 100_000, r"is not a \.tflite file of `nas export`"),
        (f'{{"a": "{"x" * (1 << 27)}"}}', "its class names are too large"),
        ('{"background": "plaid"}', "background: is not a colour"),
    ],
    ids=("list", "nested", "huge", "background"),
)
def test_a_strangers_metadata_are_refused(tmp_path: Path, about: str, reason: str) -> None:
    path = tmp_path / "net.tflite"
    shutil.copy(Path(__file__).parents[1] / "devices" / "empty.tflite", path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "a\nb\n")
        archive.writestr("metadata.json", about)
    with pytest.raises(InputError, match=reason):
        classify(path, photo(tmp_path))
