"""The `defaults:` of a space file: what all blocks of a kind share stands once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from nas import resources
from nas.blocks import SPECS
from nas.errors import InputError
from nas.space import Space, load_space

WRITTEN_OUT = {
    "efficientformer": "491bbe41d677f460",
    "efficientformer_small": "27322e0696a79897",
    "efficientformerv2": "017a5cac1a713fbe",
    "efficientvit": "3a9f985a307d07cb",
    "emo": "4788cd78788cc793",
    "swiftformer": "4d06224e38cdf670",
}
"""Digests of spaces. Those without expansions below the published ones are from when their files
repeated every hyperparameter at every place."""
TEXT = """\
format: nas-space-1
name: short
resolution: [32, 32]
defaults:
  mb4d: {expansion: [2, 1], activation: relu}
  conv_embedding: {}
stages:
- entry: {kind: conv_stem}
  width: [8]
  depth: {min: 1, max: 1}
  local: {kind: mb4d}
- entry: {kind: conv_embedding}
  width: [8]
  depth: {min: 1, max: 1}
  local: {kind: mb4d, expansion: 3}
- entry: {kind: conv_embedding}
  width: [8]
  depth: {min: 1, max: 1}
  local: [{kind: mb4d, activation: gelu}, {kind: conv_ffn}]
- entry: {kind: conv_embedding}
  width: [8]
  depth: {min: 1, max: 1}
  local: {kind: mb4d}
head: {kind: map_head, classes: 10}
"""


def digest(space: Space) -> str:
    """Return what the space and its members are, published ones and samples."""
    members = [*space.published.values(), *map(space.sample, range(20))]
    parts = [space, *members, space.largest(), space.smallest()]
    text = json.dumps([part.to_dict() for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(folder: Path, text: str) -> Space:
    path = folder / "short.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space(str(path))


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_shipped_spaces_are_what_they_were_before_they_had_defaults(name: str) -> None:
    path = resources.shipped(resources.SPACES) / f"{name}.yaml"
    assert digest(load_space(str(path))) == WRITTEN_OUT[name]


def test_a_places_own_values_count(tmp_path: Path) -> None:
    stages = read(tmp_path, TEXT).stages
    mb4d, conv_ffn = SPECS["mb4d"], SPECS["conv_ffn"]
    both = (mb4d(expansion=2, activation="relu"), mb4d(expansion=1, activation="relu"))
    assert stages[0].local == stages[3].local == both
    assert stages[1].local == (mb4d(expansion=3, activation="relu"),)
    assert stages[2].local == (
        mb4d(expansion=2, activation="gelu"),
        mb4d(expansion=1, activation="gelu"),
        conv_ffn(),
    )


def test_it_is_the_same_space_as_with_every_value_at_its_place(tmp_path: Path) -> None:
    short = read(tmp_path, TEXT)
    data = yaml.safe_load(TEXT)
    defaults = data.pop("defaults")
    for stage in data["stages"]:
        blocks = stage["local"] if isinstance(stage["local"], list) else [stage["local"]]
        stage["local"] = [
            {"kind": block["kind"], **defaults.get(block["kind"], {}), **block} for block in blocks
        ]
    assert digest(read(tmp_path, yaml.safe_dump(data, sort_keys=False))) == digest(short)
    # What a space writes of itself needs no defaults.
    assert digest(read(tmp_path, yaml.safe_dump(short.to_dict()))) == digest(short)


@pytest.mark.parametrize(
    "good, bad, message",
    [
        ("  mb4d: {exp", "  mb5d: {exp", "5: defaults.mb5d: unknown block kind 'mb5d', did you"),
        ("{expansion: [2", "{expansoin: [2", "5: defaults.mb4d: expansoin: unknown key"),
        ("[2, 1]", "[2, many]", "5: defaults.mb4d: expansion: Input should be a valid number"),
        ("[2, 1]", "[]", "5: defaults.mb4d.expansion: is an empty list, expected at least one"),
        (": relu}", ": relu, kind: mb3d}", "5: defaults.mb4d: kind: unknown key"),
        ("embedding: {}", "encoder: {}", "6: defaults.conv_encoder: no place of this space has"),
        (
            "embedding: {}",
            "embedding: 3",
            "6: defaults.conv_embedding: Input should be a valid dict",
        ),
        (
            "[2, 1]",
            "[2, 0]",
            "11: stages[0].local: mb4d: expansion 0 must be at least 0.25, and finite (expansion, activation from"
            " defaults, line 5)",
        ),
        ("expansion: 3", "expansion: 0", "15: stages[1].local: mb4d: expansion 0 must be"),
        ("defaults:", "default:", "4: default: unknown key"),
    ],
)
def test_mistakes_are_named_with_their_line(
    good: str, bad: str, message: str, tmp_path: Path
) -> None:
    assert TEXT.count(good) >= 1
    with pytest.raises(InputError) as caught:
        read(tmp_path, TEXT.replace(good, bad, 1))
    assert f"short.yaml:{message}" in str(caught.value) and "\n" not in str(caught.value)
