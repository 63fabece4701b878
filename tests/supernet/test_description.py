"""What supernet.yaml says, in today's and in older versions, read from keys alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas.files import write_yaml
from nas.runs.trained_on import ImageRange, TrainedOn
from nas.supernet.description import class_names, data_name, trained_on, up_to_date
from nas.supernet.options import Recipe

OLD = {
    "recipe": {"epochs": 3},
    "data": {"source": "digits of scikit-learn; 1617 of 1797 images to train on", "images": 1617},
    "command": "nas train --space emo --data 'my digits' --epochs 3",
}


def test_the_words_of_an_old_description_become_keys() -> None:
    today = up_to_date(OLD)
    assert today["data"] == {
        "source": "digits of scikit-learn; 1617 of 1797 images to train on",
        "images": 1617,
        "dataset": "digits of scikit-learn",
        "total": 1797,
        "held_out": 180,
        "name": "my digits",
    }
    assert today["recipe"] == Recipe(epochs=3).to_dict()
    assert up_to_date(today) == today


def test_keys_win_over_words() -> None:
    data = {**OLD["data"], "total": 10, "held_out": 4, "dataset": "other", "name": "images/"}  # type: ignore[dict-item]
    assert up_to_date({**OLD, "data": data})["data"] == data


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ({"data": {"name": "images"}, "command": "nas train --data others"}, "images"),
        ({"data": {}, "command": "nas train --space emo --data others"}, "others"),
        ({"data": {}, "command": "nas train --space emo"}, "digits"),
        ({"data": {"dataset": "words about others"}}, None),
        ({"data": {}, "command": "nas search --data others"}, None),
        ({"data": {}, "command": "nas train 'unfinished"}, None),
        ({"space": "emo"}, None),
    ],
)
def test_what_the_images_were_given_as(
    description: dict[str, Any], name: str | None, tmp_path: Path
) -> None:
    write_yaml(tmp_path / "supernet.yaml", description)
    assert data_name(tmp_path / "supernet.yaml") == name


def test_what_a_supernet_was_trained_on(tmp_path: Path) -> None:
    old = trained_on(up_to_date(OLD))
    images = ImageRange(
        "digits of scikit-learn", "my digits", total=1797, start=180, stop=1797, seed=0
    )
    assert old == TrainedOn(None, (images,))
    data = {**OLD["data"], "classes": ["0", "1"], "fingerprint": "f"}  # type: ignore[dict-item]
    new = {**OLD, "data": data, "recipe": {"seed": 3}}
    found = trained_on(up_to_date(new))
    assert found.classes == ("0", "1")
    assert (found.images[0].seed, found.images[0].fingerprint) == (3, "f")
    assert trained_on({"space": "emo"}) == TrainedOn()
    assert trained_on({"data": {"classes": ["a"]}, "recipe": {}}) == TrainedOn(("a",))
    unknown = {"classes": ["a"], "dataset": "digits", "total": None, "held_out": 3}
    assert trained_on({"data": unknown, "recipe": {"seed": 0}}) == TrainedOn(("a",))
    write_yaml(tmp_path / "supernet.yaml", new)
    assert class_names(tmp_path / "supernet.yaml") == ["0", "1"]
    write_yaml(tmp_path / "supernet.yaml", OLD)
    assert class_names(tmp_path / "supernet.yaml") == []
