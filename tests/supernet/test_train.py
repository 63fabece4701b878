"""Training: it learns, it resumes to the bit, it keeps what it has."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from nas.blocks import MB4D
from nas.data import ImageData, load_data
from nas.errors import InputError, NasError
from nas.files import write_yaml
from nas.option_values import make
from nas.runs.trained_on import images_of, read_trained_on
from nas.space import Space
from nas.space.candidates import Pick
from nas.supernet import train as training
from nas.supernet.checkpoint import Folder, extract_to, load_supernet, open_folder, save_weights
from nas.supernet.options import Recipe
from nas.supernet.supernet import Frame, Supernet
from nas.supernet.train import train
from nas.tasks.classify import Classification
from nas.training.loop import rate
from nas.training.metrics import Progress

RECIPE = Recipe(epochs=2, batch=16, flip=False)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ImageData:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return load_data("digits", (32, 32), limit=480).train


def weights(folder: Folder) -> dict[str, torch.Tensor]:
    with safe_open(folder.weights, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class Killed(BaseException):
    pass


def test_a_killed_training_ends_with_the_same_weights(
    small_space: Callable[[str], Space],
    digits: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "RANK_EVERY", 10)
    space = small_space("network_suffix").at(32)
    whole = train(space, digits, RECIPE, tmp_path / "whole", save_every=0)

    def kill(progress: Progress) -> None:
        if progress.step == 35:
            raise Killed

    with pytest.raises(Killed):
        train(space, digits, RECIPE, tmp_path / "killed", report=kill, save_every=0, report_every=5)
    assert not (tmp_path / "killed" / "supernet.safetensors").exists()
    steps = []
    resumed = train(
        space,
        digits,
        RECIPE,
        tmp_path / "killed",
        report=lambda p: steps.append(p.step),
        save_every=0,
        report_every=5,
    )
    assert steps[0] == 35, "it resumes from step 34, the last that was saved"
    ours = weights(resumed)
    theirs = weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with resumed.metrics.open() as file:
        logged = [int(row["step"]) for row in csv.DictReader(file)]
    assert logged == sorted(set(logged)), (
        "rows of steps that were lost are not kept beside their repetition"
    )


def test_with_choices_a_killed_training_ends_with_the_same_weights(
    choices_space: Callable[..., Space],
    digits: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "RANK_EVERY", 4)
    space = choices_space().at(32)
    recipe = replace(RECIPE, epochs=1, batch=48, narrow=0.8)
    whole = train(space, digits, recipe, tmp_path / "whole", save_every=0)

    def kill(progress: Progress) -> None:
        if progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(space, digits, recipe, tmp_path / "killed", report=kill, save_every=0, report_every=1)
    steps: list[int] = []
    resumed = train(
        space,
        digits,
        recipe,
        tmp_path / "killed",
        report=lambda p: steps.append(p.step),
        save_every=0,
        report_every=1,
    )
    assert steps[0] == 7 and steps[-1] > 7, "it resumes from step 6, the last that was saved"
    ours = weights(resumed)
    theirs = weights(whole)
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


@pytest.mark.parametrize("narrow", [0.0, 1.0])
def test_every_candidate_that_fits_is_drawn_at_random_and_the_largest_else(
    choices_space: Callable[..., Space],
    digits: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    narrow: float,
) -> None:
    space = choices_space().at(32)
    drawn = set()
    real = Supernet._frame

    def noted(self: Supernet, widths: list[int], pick: Pick) -> Frame:
        frame = real(self, widths, pick)
        drawn.update((("head", frame.arch.head), ("stem", frame.arch.stages[0].entry)))
        drawn.update((place, block) for place, blocks in frame.chosen.items() for block in blocks)
        return frame

    monkeypatch.setattr(Supernet, "_frame", noted)
    train(space, digits, replace(RECIPE, batch=8, epochs=1, narrow=narrow), tmp_path / "out")
    wanted = {
        (f"stage{i}_block{p}", b)
        for i, stage in enumerate(space.stages, start=1)
        for p in range(1, stage.depths[1] + 1)
        for b in stage.local + stage.global_
    }
    wanted |= {("head", head) for head in space.heads}
    wanted |= {
        ("stem", replace(e, width=w))
        for e in space.stages[0].entries
        for w in space.stages[0].widths
    }  # type: ignore[call-arg]
    if narrow:
        assert drawn >= wanted
    else:
        chosen = {place: [b for p, b in drawn if p == place] for place, _ in wanted}
        assert all(
            len(blocks) == 1 + (int(place[5]) > 2 if "_block" in place else 0)
            for place, blocks in chosen.items()
        )
        assert {block for place, block in drawn if place == "stage1_block1"} == {MB4D(2)}


def test_with_choices_it_learns_and_its_weights_are_inherited(
    choices_space: Callable[..., Space], digits: ImageData, tmp_path: Path
) -> None:
    import nas
    from nas.weights import load_state_dict

    space = choices_space("stage_suffix").at(32)
    rows: list[Progress] = []
    folder = train(
        space, digits, replace(RECIPE, epochs=8, narrow=0.5), tmp_path / "out", report=rows.append
    )
    assert rows[-1].loss < rows[0].loss and rows[-1].accuracy > 40
    for arch in space.published.values():
        extract_to(folder.root, arch, tmp_path / "weights.safetensors")
        net = nas.build(arch)
        net.load_state_dict(load_state_dict(tmp_path / "weights.safetensors"))
    known = read_trained_on(tmp_path / "weights.safetensors")
    assert known.classes == digits.classes
    assert known.images == (images_of(digits, RECIPE.seed),)


@pytest.mark.slow
def test_kill_9_of_the_command_keeps_what_is_done(
    tmp_path: Path, small_space: Callable[[str], Space]
) -> None:
    space = Path(small_space("network_suffix").path)
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "nas",
        "train",
        "--space",
        str(space),
        "--data",
        "digits",
        "--resolution",
        "32",
        "--epochs",
        "3",
        "--score-images",
        "50",
        "--score-widths",
        "2",
        "--out",
        str(out),
        "--json",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (out / "metrics.csv").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert '"baseline_accuracy"' in finished.stdout
    assert not list(out.glob(".*.part"))


def test_it_learns(small_space: Callable[[str], Space], digits: ImageData, tmp_path: Path) -> None:
    rows: list[Progress] = []
    recipe = replace(RECIPE, epochs=12)
    train(
        small_space("network_suffix").at(32), digits, recipe, tmp_path / "out", report=rows.append
    )
    assert rows[-1].accuracy > 60
    assert rows[-1].loss < rows[0].loss
    assert rows[-1].step == rows[-1].steps


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": "soft"},
        {"noise": "gumbel"},
        {"narrow": 0.0},
        {"precision": "bf16"},
        {"sandwich": 1},
        {"ema": 0.9},
        {"accumulate": 3},
        {"channels_last": False},
    ],
)
def test_every_variant_trains(
    small_space: Callable[[str], Space],
    digits: ImageData,
    tmp_path: Path,
    change: dict[str, object],
) -> None:
    recipe = replace(RECIPE, epochs=1, batch=128, **change)  # type: ignore[arg-type]
    folder = train(small_space("stage_suffix").at(32), digits, recipe, tmp_path / "out")
    supernet, description = load_supernet(folder.root)
    assert description["recipe"] == recipe.to_dict()
    assert any(float(alpha.detach().abs().sum()) > 0 for alpha in supernet.alphas().values())


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(
    small_space: Callable[[str], Space],
    digits: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = small_space("network_suffix").at(32)
    monkeypatch.setattr(training, "RANK_EVERY", 2)
    real = Classification.loss
    calls = []

    def broken(*args: object) -> object:
        calls.append(1)
        loss, logits = real(*args)  # type: ignore[arg-type]
        return (loss * float("nan") if len(calls) > 4 else loss), logits

    monkeypatch.setattr(Classification, "loss", broken)
    with pytest.raises(
        NasError, match=r"the loss is nan at step 5\. The last saved state is unchanged"
    ):
        train(space, digits, RECIPE, tmp_path / "out", save_every=0)
    with safe_open(tmp_path / "out" / "state.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "4"


def test_another_training_in_the_folder_is_refused(
    small_space: Callable[[str], Space], digits: ImageData, tmp_path: Path
) -> None:
    space = small_space("network_suffix").at(32)
    train(space, digits, replace(RECIPE, epochs=1, batch=256), tmp_path / "out")
    with pytest.raises(
        InputError, match=r"supernet\.yaml:\d+: recipe: .*learning_rate 0\.001 there, 0\.5 here"
    ):
        train(
            space, digits, replace(RECIPE, epochs=1, batch=256, learning_rate=0.5), tmp_path / "out"
        )


def test_the_folder_says_how_the_data_set_was_split_and_those_of_older_versions_resume(
    small_space: Callable[[str], Space], tmp_path: Path
) -> None:
    splits = load_data("digits", (32, 32), limit=100, held_out=30)
    space = small_space("network_suffix").at(32)
    recipe = replace(RECIPE, epochs=1, batch=70)
    folder = train(space, splits.train, recipe, tmp_path / "out")
    description = yaml.safe_load(folder.description.read_text())
    data = description["data"]
    assert (data["images"], data["total"], data["held_out"]) == (70, 100, 30)
    assert splits.train.part and data["dataset"] == splits.train.part.dataset
    assert data["name"] == "digits" and data["classes"] == [str(digit) for digit in range(10)]
    for key in ("dataset", "total", "held_out", "name", "classes"):
        del data[key]
    write_yaml(folder.description, description)
    train(space, splits.train, recipe, tmp_path / "out")
    data["held_out"] = 20
    write_yaml(folder.description, description)
    with pytest.raises(InputError, match="held_out 20 there, 30 here"):
        train(space, splits.train, recipe, tmp_path / "out")


def test_a_training_that_has_saved_nothing_may_start_with_other_options(
    small_space: Callable[[str], Space],
    digits: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the error says that names the batch that fits."""
    space = small_space("network_suffix").at(32)
    recipe = replace(RECIPE, epochs=1, batch=256)
    real = Supernet.forward

    def full(self: Supernet, x: torch.Tensor, *rest: object) -> object:
        if len(x) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Supernet, "forward", full)
    with pytest.raises(
        NasError, match=r"with 216 images at once \(54 fit\)\. Fix: --batch 54, or --accumulate 4 "
    ):
        train(space, digits, recipe, tmp_path / "out")
    folder = train(space, digits, replace(recipe, accumulate=4), tmp_path / "out")
    assert load_supernet(folder.root)[1]["recipe"]["accumulate"] == 4


def test_damaged_and_foreign_checkpoints_are_refused(
    small_space: Callable[[str], Space], digits: ImageData, tmp_path: Path
) -> None:
    folder = train(
        small_space("network_suffix").at(32),
        digits,
        replace(RECIPE, epochs=1, batch=256),
        tmp_path / "out",
    )
    whole = folder.weights.read_bytes()
    folder.weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        InputError, match=r"supernet\.safetensors: is not a readable safetensors file"
    ):
        load_supernet(folder.root)
    with pytest.raises(InputError, match=r"no supernet here"):
        open_folder(tmp_path)


def test_data_of_another_shape_or_other_classes_is_refused(
    small_space: Callable[[str], Space], digits: ImageData, tmp_path: Path
) -> None:
    space = small_space("network_suffix").at(32)
    with pytest.raises(InputError, match=r"images of \(32, 32\) for a space at \(64, 64\)"):
        train(space.at(64), digits, RECIPE, tmp_path / "out")
    with pytest.raises(InputError, match=r"10 classes in the data, 7 in the space's head"):
        train(space.at(classes=7), digits, RECIPE, tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("epochs", 0, r"--epochs 0: is out of range \(expected a whole number, at least 1"),
        ("noise", "pink", r"--noise pink: is unknown \(expected uniform, gumbel or none\)"),
        ("learning_rate", float("nan"), "--learning-rate nan: is not a finite number"),
        (
            "narrow",
            2.0,
            r"--narrow 2.0: is out of range \(expected a number, at least 0 and at most 1\)",
        ),
        ("precision", "fp8", r"--precision fp8: is unknown \(expected fp32, bf16 or fp16\)"),
        ("accumulate", 0, r"--accumulate 0: is out of range \(expected a whole number, at least 1"),
        ("ema", 1.0, r"--ema 1.0: is out of range \(expected a number, at least 0 and below 1\)"),
        (
            "sandwich",
            -1,
            (
                r"--sandwich -1: is out of range \(expected a whole number, at least 0 and at most"
                r" 64\)"
            ),
        ),
        ("sandwich", 100_000, "--sandwich 100000: is out of range"),
    ],
)
def test_bad_recipes_name_the_option(option: str, value: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make(Recipe, {option: value})


def test_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate(i / 100, 0.1) for i in range(101)]
    assert np.argmax(rates) == 10
    assert rates[10] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_inherited_weights_load_into_the_architecture_at_another_size(
    small_space: Callable[[str], Space], digits: ImageData, tmp_path: Path
) -> None:
    import nas
    from nas.weights import load_state_dict

    space = small_space("network_suffix").at(32)
    folder = train(space, digits, replace(RECIPE, epochs=1, batch=256), tmp_path / "out")
    arch = space.published["small_l"].at(128)
    extract_to(folder.root, arch, tmp_path / "weights.safetensors")
    net = nas.build(arch)
    net.load_state_dict(load_state_dict(tmp_path / "weights.safetensors"))
    assert net.eval()(torch.rand(1, 3, 128, 128)).shape == (1, 10)


def test_a_supernet_with_weights_that_are_no_numbers_is_refused(
    small_space: Callable[[str], Space], digits: ImageData, tmp_path: Path
) -> None:
    space = small_space("network_suffix").at(32)
    folder = train(space, digits, replace(RECIPE, epochs=1, batch=256), tmp_path / "out")
    supernet, _ = load_supernet(folder.root)
    with torch.no_grad():
        supernet.stem.first.conv.weight[0] = float("inf")
    save_weights(folder.weights, supernet)
    with pytest.raises(
        InputError, match=r"supernet\.safetensors: 'stem\.first\.conv\.weight' has NaN or infinite"
    ):
        load_supernet(folder.root)
