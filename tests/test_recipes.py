"""Published recipes: each parses by the commands that it is for, and each value names its source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nas.blocks import FAMILIES
from nas.cli.options import read_options
from nas.finetune.options import FinetuneOptions
from nas.space import load_space, space_names
from nas.supernet.options import TrainOptions
from nas.training.settings import Settings, settle

FOLDER = Path(__file__).parents[1] / "experiments" / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
REPOSITORIES = re.findall(r"^\| ([A-Z]+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
"""Short names of the repositories that the recipes name, from the table of their commits."""
SOURCE = re.compile(rf"^[\w-]+: \S+ +# ({'|'.join(REPOSITORIES)}):[\w/.]+:\d+")
"""A value, then a comment that begins with a repository, a file and a line."""

VALUES = {
    # Of families whose values were typed twice: epochs, batch, peak rate, weight decay, drop path, EMA
    "efficientformer": (300, 1024, 1e-3, 0.025, 0.0, 0.99996),
    "efficientformerv2": (300, 1024, 1e-3, 0.025, 0.1, 0.99996),
    "swiftformer": (300, 2048, 2e-3, 0.025, 0.0, 0.99996),
    "efficientvit": (320, 1024, 2e-3, 0.1, 0.05, 0.9998),
    "emo": (300, 2048, 6e-3, 0.05, 0.05, 0.9998),
    "mobilenetv4": (500, 4096, 4e-3, 0.1, 0.075, 0.0),
}


def values(recipe: Settings) -> tuple[float, ...]:
    return (
        recipe.epochs,
        recipe.batch,
        recipe.learning_rate,
        recipe.weight_decay,
        recipe.drop_path,
        recipe.ema,
    )


def test_every_family_has_a_recipe() -> None:
    # Packages without a space have blocks for all families: `common` and the heads in `fpn`.
    packages = {module.rpartition(".")[2] for module in FAMILIES}
    families = packages & set(space_names())
    assert {path.stem for path in RECIPES} == families and len(packages - families) == 2
    assert set(VALUES) <= families


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_by_the_commands(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    train = read_options("train", {"space": path.stem, "data": "photos"}, str(path))
    assert isinstance(train, TrainOptions)
    member = next(
        name
        for space in space_names()
        for name in load_space(space).published
        if name.startswith(f"{path.stem}_")
    )
    finetune = read_options("finetune", {"run": member, "data": "photos"}, str(path))
    assert isinstance(finetune, FinetuneOptions)
    for options in (train, finetune):
        recipe = settle(options.recipe, options, "photos")
        assert values(recipe) == VALUES.get(path.stem, values(recipe))
        # Nothing in the file is left at its default by mistake.
        for key, value in given.items():
            assert getattr(recipe, key.replace("-", "_")) == value, key
    # The command line takes precedence.
    shorter = read_options("train", {"space": path.stem, "epochs": "3"}, str(path))
    assert isinstance(shorter, TrainOptions) and shorter.recipe.epochs == 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_value_names_its_source(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [line for line in lines if line and line[0] != "#" and not SOURCE.match(line)] == []
    # What is left out is named too.
    assert any(line.startswith("# Augmentation (left out): ") for line in lines)
    for repository in re.findall(r"\b([A-Z]+):[\w/.]+:\d+", path.read_text()):
        assert repository in REPOSITORIES
