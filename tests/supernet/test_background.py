"""The colour behind transparent pixels: recorded by trainings, and used by what comes later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nas.data import Splits, load_data
from nas.errors import InputError
from nas.files import YamlFile, write_yaml
from nas.option_values import make
from nas.space import Space
from nas.supernet.checkpoint import Folder, describe
from nas.supernet.evaluate import training_splits
from nas.supernet.options import Recipe, TrainOptions


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, shade in (("cat", 40), ("dog", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            picture = Image.new("RGBA", (8, 8), (shade, i, 0, 100))
            picture.save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def description_of(splits: Splits) -> dict[str, object]:
    data, part = splits.train, splits.train.part
    assert part is not None
    return {
        **{"source": data.source, "images": len(data), "fingerprint": data.fingerprint},
        **{"background": data.background, "name": data.name, "dataset": part.dataset},
        **{"total": part.total, "held_out": part.total - len(data)},
    }


def test_later_commands_read_the_same_pixels(
    photos: Path, tmp_path: Path, small_space: Callable[[str], Space]
) -> None:
    space = small_space("network_suffix").at((32, 32), 2)
    splits = load_data(str(photos), (32, 32), held_out=0.25, background="black")
    folder = Folder(tmp_path / "t")
    describe(folder, space, Recipe(), description_of(splits))
    again = training_splits(folder.root, str(photos))
    assert again.train.fingerprint == splits.train.fingerprint
    assert again.held_out.fingerprint == splits.held_out.fingerprint
    # With another colour the images are others.
    changed = YamlFile(folder.description).data
    changed["data"]["background"] = "white"
    write_yaml(folder.description, changed)
    with pytest.raises(InputError, match="other images"):
        training_splits(folder.root, str(photos))


def test_a_training_of_an_older_version_goes_on(
    photos: Path, tmp_path: Path, small_space: Callable[[str], Space]
) -> None:
    """Its description has no background; the fingerprint says whether the pixels are the same."""
    space = small_space("network_suffix").at((32, 32), 2)
    data = description_of(load_data(str(photos), (32, 32)))
    folder = Folder(tmp_path / "t")
    describe(folder, space, Recipe(), data)
    folder.weights.touch()
    older = YamlFile(folder.description).data
    del older["data"]["background"]
    write_yaml(folder.description, older)
    describe(folder, space, Recipe(), data)
    black = description_of(load_data(str(photos), (32, 32), background="black"))
    with pytest.raises(InputError, match="fingerprint"):
        describe(folder, space, Recipe(), black)


@pytest.mark.parametrize("name", ["run.yaml", "finetune.yaml"])
def test_files_of_something_else_are_not_replaced(
    tmp_path: Path, small_space: Callable[[str], Space], name: str
) -> None:
    root = tmp_path / "other"
    root.mkdir()
    (root / name).touch()
    with pytest.raises(InputError, match=rf"holds {name} of something else.*Fix: another --out"):
        describe(Folder(root), small_space("network_suffix"), Recipe(), {"source": "made up"})
    assert [each.name for each in root.iterdir()] == [name]


def test_a_colour_is_checked() -> None:
    assert make(TrainOptions, {"space": "emo", "background": "#FFF000"}).split.background == (
        "#fff000"
    )
    with pytest.raises(InputError, match="--background red: is not a colour"):
        make(TrainOptions, {"space": "emo", "background": "red"})
