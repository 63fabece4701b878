"""What the command line sets reaches the training: schedule, optimizer, loss, mixing, and the
recorded recipe."""

from __future__ import annotations

from math import cos, pi

import numpy as np
import pytest
import torch

from nas.errors import InputError
from nas.finetune.options import FinetuneOptions
from nas.option_values import make
from nas.supernet.options import TrainOptions
from nas.training.distributed import processes
from nas.training.loop import Plan
from nas.training.mixing import draw_mixture
from nas.training.settings import settle

TRAIN = {"space": "small"}
TUNE = {"run": "small_s", "data": "digits"}


@pytest.mark.parametrize(("kind", "base"), [(TrainOptions, TRAIN), (FinetuneOptions, TUNE)])
def test_warmup_is_the_share_in_which_the_rate_rises(kind: type, base: dict[str, object]) -> None:
    recipe = make(kind, {**base, "epochs": 10, "batch": 10, "warmup": "0.5"}).recipe
    plan = Plan(100, recipe)
    rates = [plan.rate(step) for step in range(plan.steps)]
    assert int(np.argmax(rates)) == plan.steps // 2 - 1
    assert rates[24] == pytest.approx(0.5)
    assert rates[74] == pytest.approx(0.5 * (1 + cos(pi / 2)), abs=0.01)


@pytest.mark.parametrize(("kind", "base"), [(TrainOptions, TRAIN), (FinetuneOptions, TUNE)])
@pytest.mark.parametrize(
    ("name", "value"), [("warmup", 0.25), ("weight_decay", 0.01), ("label_smoothing", 0.02)]
)
def test_what_was_given_is_in_the_recorded_recipe(
    kind: type, base: dict[str, object], name: str, value: float
) -> None:
    options = make(kind, {**base, name: str(value)})
    assert settle(options.recipe, options, "digits").to_dict()[name] == value


def test_switch_divides_the_mixed_batches_between_cutmix_and_mixup() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def cut(switch: str) -> int:
        """Return how many of 40 mixed batches are made of pixels that stand in one of both images."""
        recipe = make(FinetuneOptions, {**TUNE, "mix": 1, "switch": switch}).recipe
        drawn = [
            draw_mixture(recipe, 8, 8, torch.Generator().manual_seed(seed)) for seed in range(40)
        ]
        mixed = [each.images(images, images.flip(0)) for each in drawn if each is not None]
        assert len(mixed) == 40
        return sum(bool(((each == images) | (each == images.flip(0))).all()) for each in mixed)

    assert cut("1") == 40
    assert cut("0") < 5
    assert 8 < cut("0.5") < 32


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"switch": 0.3, "mixup": 0}, r"--switch 0\.3: has no effect here \(requires --mixup"),
        ({"switch": 0.3, "mix": 0}, r"--switch 0\.3: has no effect here \(requires --mix"),
        (
            {"distill_weight": 0.3},
            r"--distill-weight 0\.3: has no effect here \(requires --teacher\)",
        ),
        (
            {"teacher_weights": "x"},
            r"--teacher-weights x: has no effect here \(requires --teacher\)",
        ),
        ({"warmup": 1}, r"--warmup 1: is out of range"),
        ({"switch": 1.5}, r"--switch 1\.5: is out of range"),
    ],
)
def test_what_would_be_ignored_is_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(FinetuneOptions, {**TUNE, **more})


def test_the_precision_of_the_launcher_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def precision(asked: dict[str, object]) -> str:
        options = make(TrainOptions, {**TRAIN, **asked})
        return settle(options.recipe, options, "digits").precision

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert precision({}) == "fp32" and precision({"precision": "bf16"}) == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision({}) == "bf16" and precision({"precision": "bf16"}) == "bf16"
    with pytest.raises(InputError, match="--precision fp16 with ACCELERATE_MIXED_PRECISION=bf16"):
        precision({"precision": "fp16"})
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(InputError, match="ACCELERATE_MIXED_PRECISION=fp8: is unknown"):
        precision({})


@pytest.mark.parametrize(
    ("name", "value", "same", "unasked"),
    [
        ("DYNAMO_BACKEND", "INDUCTOR", {"compile": True}, "NO"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", {"accumulate": 4}, "1"),
        ("GRADIENT_CLIPPING", "1.0", {"clip_norm": 1.0}, "none"),
        ("USE_FSDP", "true", {}, "false"),
        ("USE_DEEPSPEED", "true", {}, "false"),
    ],
)
def test_what_the_launcher_asks_for_in_vain_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    same: dict[str, object],
    unasked: str,
) -> None:
    variable = f"ACCELERATE_{name}"

    def settled(asked: dict[str, object]) -> None:
        options = make(TrainOptions, {**TRAIN, **asked})
        settle(options.recipe, options, "digits")

    monkeypatch.setenv(variable, unasked)
    settled({})
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=rf"{variable}={value}: has no effect here\. Fix: "):
        settled({})
    if same:
        settled(same)


@pytest.mark.parametrize("value", ["True", "False"])
def test_the_launcher_may_ask_for_the_cpu(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    asked = []

    class State:
        process_index = 0
        num_processes = 1
        device = torch.device("cpu")

        def __init__(self, cpu: bool) -> None:
            asked.append(cpu)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("accelerate.PartialState", State)
    monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    processes()
    processes("cuda")
    assert asked == [value == "True", False]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            TrainOptions,
            {"mix": 0.3},
            r"--mix 0\.3: has no effect here \(requires --mixup or --cutmix",
        ),
        (FinetuneOptions, {"mix": 1, "mixup": 0, "cutmix": 0}, "--mix 1: has no effect here"),
        (FinetuneOptions, {"mixup": 0.4, "mix": 0}, r"--mixup 0\.4: has no effect here"),
        (TrainOptions, {"cutmix": 1, "mix": 0}, "--cutmix 1: has no effect here"),
        (TrainOptions, {"mixup": 0.4, "mix": 0.3}, ""),
        (FinetuneOptions, {"mix": 0}, ""),
        (TrainOptions, {"mix": 0.3, "augment": "standard"}, ""),
    ],
)
def test_options_of_mixing_that_exclude_one_another(
    kind: type, given: dict[str, object], message: str
) -> None:
    options = make(kind, {**(TRAIN if kind is TrainOptions else TUNE), **given})
    if not message:
        settle(options.recipe, options, "digits")
        return
    with pytest.raises(InputError, match=message):
        settle(options.recipe, options, "digits")


def test_images_are_mirrored_by_default_unless_they_are_digits() -> None:
    plain = make(TrainOptions, TRAIN)
    asked = make(TrainOptions, {**TRAIN, "flip": True})
    assert (
        settle(plain.recipe, plain, "photos").flip
        and not settle(plain.recipe, plain, "digits").flip
    )
    assert settle(asked.recipe, asked, "digits").flip
