"""What `nas finetune` tells before it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.blocks import FPNHead
from nas.finetune.command import finetune, perform
from nas.finetune.options import FinetuneOptions, Recipe
from nas.option_values import applies, make
from nas.space import Architecture, load_space


class Stopped(Exception):
    """Ends a fine-tuning before its first step."""


@pytest.mark.parametrize(
    ("classes", "more", "head"),
    [
        (10, {"data": "digits"}, None),
        (7, {"data": "digits", "new_head": True}, None),
        (7, {"data": "digit-scenes", "segment": True, "head_depth": [2]}, FPNHead(11, depth=2)),
    ],
)
def test_the_network_is_the_one_that_is_trained(
    classes: int,
    more: dict[str, object],
    head: FPNHead | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arch = load_space("efficientformer_small").sample(seed=0)
    arch.at(classes=classes).save(tmp_path / "a.yaml")
    told: list[Architecture] = []

    def stop(network: Architecture, *_: object) -> None:
        told.append(network)
        raise Stopped

    options = make(
        FinetuneOptions, {"run": "a.yaml", "limit": 60, "from_scratch": True, "out": "o", **more}
    )
    with pytest.raises(Stopped):
        perform(options, on_start=stop)
    assert [network.head for network in told] == [head or arch.head]


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(epochs=3, mix=0.0), Recipe(batch=8, mixup=0.0, cutmix=0.0)]
)
def test_a_recipe_is_taken_with_data_by_name(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FinetuneOptions] = []

    def keep(options: FinetuneOptions) -> tuple[None, None, bool]:
        made.append(options)
        applies(options, distill="none")
        return None, None, True

    monkeypatch.setattr("nas.finetune.command.perform", keep)
    finetune("small_s", "digits", recipe, from_scratch=True)
    assert made[0].recipe == recipe and made[0].from_scratch
