"""The options of augmentation: what --augment sets, and what a recipe records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas.errors import InputError
from nas.extras import MissingExtra
from nas.files import write_yaml
from nas.finetune.options import FinetuneOptions
from nas.option_values import applies, make
from nas.supernet.options import TrainOptions
from nas.training import settings as settling
from nas.training.settings import settle, settle_store

TRAIN: dict[str, Any] = {"space": "small"}
TUNE: dict[str, Any] = {"run": "small_s", "data": "photos"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settling looks whether torchvision is there, which does not matter here."""
    monkeypatch.setattr(settling, "need", lambda *what: None)


def recipe(kind: type, base: dict[str, Any], **more: Any) -> dict[str, Any]:
    options = make(kind, {**base, **more})
    return settle(options.recipe, options, "photos").to_dict()


def test_each_augmentation_is_spelled_out_in_the_recipe() -> None:
    light, standard, strong = (
        recipe(TrainOptions, TRAIN, augment=name) for name in ("light", "standard", "strong")
    )
    assert light["augmentation"] == {"shift": 0.125}
    assert (light["mixup"], light["cutmix"], light["repeats"]) == (0, 0, 1)
    assert standard["augmentation"]["crop_area"] == [0.35, 1.0]
    assert standard["augmentation"]["colour_jitter"] > 0
    assert strong["augmentation"] == {
        "crop_area": [0.08, 1.0],
        "crop_aspect": [3 / 4, 4 / 3],
        "randaugment_operations": 2,
        "randaugment_magnitude": 9,
        "erasing": 0.25,
    }
    named = ("mixup", "cutmix", "mix", "switch", "repeats")
    assert [strong[name] for name in named] == [0.8, 1.0, 1.0, 0.5, 3]


def test_the_default_of_a_fine_tuning_is_what_it_was() -> None:
    made = recipe(FinetuneOptions, TUNE)
    assert (made["augment"], made["mixup"], made["cutmix"], made["mix"]) == ("light", 0.8, 1.0, 0.5)


def test_what_is_given_wins_over_the_augmentation() -> None:
    made = recipe(TrainOptions, TRAIN, augment="strong", mixup=0, repeats=2)
    assert (made["mixup"], made["repeats"], made["cutmix"]) == (0, 2, 1.0)


def test_switch_without_mixing_is_refused() -> None:
    def check(**more: Any) -> None:
        options = make(TrainOptions, {**TRAIN, "switch": 0.3, **more})
        made = settle(options.recipe, options, "photos")
        applies(options, mixup=made.mixup, cutmix=made.cutmix, mix=made.mix)

    check(augment="strong")
    check(mixup=0.2, cutmix=1)
    with pytest.raises(InputError, match=r"--switch 0\.3: has no effect here \(requires --mixup"):
        check()


def test_torchvision_is_asked_for_before_any_image_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(what: str, extra: str, module: str) -> None:
        raise MissingExtra(what, extra, module)

    monkeypatch.setattr(settling, "need", missing)
    with pytest.raises(InputError, match=r"--augment standard needs torchvision"):
        recipe(TrainOptions, TRAIN, augment="standard")
    assert recipe(TrainOptions, TRAIN)["augment"] == "light"


@pytest.mark.parametrize(
    ("recorded", "asked", "store"),
    [
        ({"store": "stream"}, "auto", "stream"),
        ({"store": "stream"}, "memory", "memory"),
        ({"source": "an older version's"}, "auto", "memory"),
        (None, "auto", "auto"),
    ],
)
def test_a_training_is_resumed_with_its_own_store(
    tmp_path: Path, recorded: dict[str, str] | None, asked: Any, store: str
) -> None:
    path = tmp_path / "supernet.yaml"
    if recorded is not None:
        write_yaml(path, {"data": recorded})
    assert settle_store(asked, path) == store
