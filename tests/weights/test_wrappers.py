"""Copies of weights inside checkpoints: found behind any keys and any prefix."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import InputError
from nas.weights.wrappers import choose, unwrap

NAMES = ("stem.conv.weight", "stage1.0.norm.weight", "stage1.0.norm.running_var", "head.weight")
TENSORS = {name: torch.full((2,), float(index)) for index, name in enumerate(NAMES)}

part = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)


@given(keys=st.lists(part, max_size=4), prefix=st.lists(part, max_size=3), beside=part)
def test_any_keys_and_any_prefix(keys: list[str], prefix: list[str], beside: str) -> None:
    start = "".join(f"{each}." for each in prefix)
    checkpoint: Any = {f"{start}{name}": tensor for name, tensor in TENSORS.items()}
    for key in reversed(keys):
        checkpoint = {f"{key}_": checkpoint, f"{beside}-": 3, "optimizer": {"state": [1]}}
    choice = choose(checkpoint, NAMES)
    assert choice.copy.tensors == TENSORS and choice.matched == len(NAMES) and choice.note == ""


@pytest.mark.parametrize(
    "name",
    ["model_ema", "state_dict_ema", "ema_state_dict", "ema", "EMA", "modelEma", "net_E", "swa_model",
     "averaged_model", "shadow", "model_ema_0.9998"],
)  # fmt: skip
def test_averages_are_known_by_name(name: str) -> None:
    live = {key: tensor + 1 for key, tensor in TENSORS.items()}
    for checkpoint in (
        {"model": live, name: TENSORS},
        {name: TENSORS, "state_dict": live},
        {"callbacks": {name: {"weights": TENSORS}}, "state_dict": live},
    ):
        choice = choose(checkpoint, NAMES)
        assert choice.copy.tensors == TENSORS and choice.copy.averaged
        assert "is taken, the moving average (EMA)" in choice.note


@pytest.mark.parametrize(
    "name", ["schema", "avgpool", "mean_average_precision_net", "net", "model"]
)
def test_other_names_are_no_averages(name: str) -> None:
    choice = choose({name: TENSORS}, NAMES)
    assert choice.copy.averaged == ("average" in name) and not choice.note


def test_averages_behind_a_prefix_in_the_same_dict() -> None:
    live = {f"model.{key}": tensor + 1 for key, tensor in TENSORS.items()}
    average = {f"other.module.{key}": tensor for key, tensor in TENSORS.items()}
    counter = {"other.n_averaged": torch.tensor(3)}
    choice = choose({"state_dict": live | average | counter}, NAMES)
    assert choice.copy.tensors == TENSORS
    assert "'state_dict.other.module' is taken" in choice.note
    assert "'state_dict.model' is not" in choice.note


def test_two_live_copies_are_said() -> None:
    choice = choose({"student": TENSORS, "teacher": TENSORS}, NAMES)
    assert "'student' is taken, the first copy; 'teacher' is not" in choice.note


@pytest.mark.parametrize(
    "part", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_wrappers_around_single_blocks(part: str) -> None:
    inside = {name.replace("0.", f"0.{part}."): value for name, value in TENSORS.items()}
    for prefix in ("", "module.", f"{part}.module."):
        checkpoint = {f"{prefix}{name}": value for name, value in inside.items()}
        assert choose(checkpoint, NAMES).copy.tensors == TENSORS
        assert unwrap(checkpoint) == TENSORS


def test_weights_that_an_average_was_swapped_with() -> None:
    swapped = {f"ema_{name.replace('.', '_')}": value + 1 for name, value in TENSORS.items()}
    choice = choose({"state_dict": TENSORS | swapped}, NAMES)
    assert choice.copy.tensors == TENSORS and choice.note == ""


def test_without_a_network_known_prefixes_go() -> None:
    assert unwrap({"module." + key: tensor for key, tensor in TENSORS.items()}) == TENSORS
    compiled = {f"module._orig_mod.{key}": tensor for key, tensor in TENSORS.items()}
    assert unwrap({"state_dict": compiled, "n": torch.tensor(1)}) == TENSORS
    # One module alone keeps its name.
    assert unwrap({"stem.weight": TENSORS["head.weight"]}).keys() == {"stem.weight"}


def test_without_a_network_the_average_is_taken_with_a_warning() -> None:
    live = {key: tensor + 1 for key, tensor in TENSORS.items()}
    with pytest.warns(UserWarning, match="'model_ema' is taken"):
        assert unwrap({"model": live, "model_ema": TENSORS}) == TENSORS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unwrap({"model_ema": TENSORS}) == TENSORS


@pytest.mark.parametrize(
    ("checkpoint", "holds"),
    [
        ({}, "nothing"),
        ([1], "one list"),
        ({"epoch": 3, "args": {"lr": 1}}, "'epoch', 'args'"),
    ],
)
def test_no_tensors(checkpoint: Any, holds: str) -> None:
    for function in (unwrap, lambda each: choose(each, NAMES)):
        with pytest.raises(InputError, match=rf"this checkpoint has no tensors \(got {holds}\)"):
            function(checkpoint)
