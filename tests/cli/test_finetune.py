"""`nas finetune` as a user meets it: one result on stdout, one line for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nas.data import load_data
from nas.files import write_yaml
from nas.network import build
from nas.space import Architecture
from nas.supernet.checkpoint import extract_to
from nas.supernet.options import Recipe
from nas.supernet.train import train

Nas = Callable[..., tuple[int, str, str]]
QUICK = ("--data", "digits", "--limit", "200", "--epochs", "1", "--batch", "60")


@pytest.fixture
def run(workplace: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """A run folder, run, whose network has weights; returns the network's architecture."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace.folder / "cache"))
    arch: Architecture = workplace.space.at(32).published["small_s"]
    arch.save("run/architecture.yaml")
    write_yaml("run/run.yaml", {"format": "nas-run-1", "scores": {"provenance": "made up"}})
    torch.manual_seed(0)
    save_file(build(arch).state_dict(), "run/weights.safetensors", {"format": "nas-weights-1"})
    return arch


def test_json_is_one_document_with_the_promised_keys(nas: Nas, run: Architecture) -> None:
    code, out, err = nas("finetune", "run", *QUICK, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert {
        "run",
        "architecture",
        "weights",
        "start",
        "teacher",
        "accuracy",
        "epochs",
        "seconds",
        "provenance",
        "next",
    } <= set(document)
    assert (document["run"], document["weights"]) == ("run", "run/finetune/weights.safetensors")
    assert (document["start"], document["teacher"], document["epochs"]) == ("inherited", None, 1)
    assert {"start", "raw", "ema"} <= set(document["accuracy"]["held_out"]) and document[
        "accuracy"
    ]["test"] is None
    assert document["next"] == "nas export run --to config,torch,litert"
    assert err.splitlines()[-1] == f"next: {document['next']}"
    assert Path(document["weights"]).exists() and Path(document["architecture"]).exists()


def test_a_taught_one_from_scratch_tells_both_accuracies_and_comes_elsewhere(
    nas: Nas, run: Architecture
) -> None:
    teacher = ("--teacher", "run/architecture.yaml", "--teacher-weights", "run/weights.safetensors")
    code, out, err = nas(
        "finetune", "run", *QUICK, "--from-scratch", *teacher, "--distill", "soft", "--ema", "0"
    )
    assert code == 0, err
    assert "held out" in out and "teacher" in out and "before" in out and "averaged" not in out
    assert "with soft distillation from small_s" in out
    assert "digits" in err and "out      run/finetune-scratch" in err
    folder = "run/finetune-scratch"
    following = (
        f"nas export {folder}/architecture.yaml --weights {folder}/weights.safetensors --to"
        " config,torch,litert"
    )
    assert err.splitlines()[-1] == f"next: {following}"


def test_an_architecture_alone_takes_weights_from_a_file(nas: Nas, run: Architecture) -> None:
    code, out, err = nas(
        "finetune", "run/architecture.yaml", *QUICK, "--init", "run/weights.safetensors", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["init"]["file"] == "run/weights.safetensors"
    assert document["folder"] == "runs/finetune-small_s"


def test_the_supernet_that_gave_the_weights_teaches(
    nas: Nas, run: Architecture, workplace: SimpleNamespace
) -> None:
    data = load_data("digits", (32, 32), limit=200)
    train(
        workplace.space.at(32), data.train, Recipe(epochs=1, batch=90, flip=False), "runs/supernet"
    )
    extract_to("runs/supernet", run, "run/weights.safetensors")
    write_yaml("run/run.yaml", {"format": "nas-run-1", "supernet": "runs/supernet"})
    code, out, err = nas("finetune", "run", *QUICK, "--teacher", "supernet", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["init"]["supernet"] == "runs/supernet"
    assert document["teacher"]["name"] == "largest member of small's supernet"
    assert document["teacher"]["file"] == "runs/supernet/supernet.safetensors"
    assert {"teacher", "start", "raw", "ema"} <= set(document["accuracy"]["held_out"])
    with safe_open(document["weights"], framework="pt") as file:
        assert file.metadata()["supernet"] == "runs/supernet"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["runn", *QUICK], "unknown architecture 'runn'"),
        (["search_spaces", *QUICK], "search_spaces: is not a finished run (run.yaml is missing)"),
        (
            ["run", "--data", "nowhere/at/all"],
            "data nowhere/at/all: there is no such file or folder",
        ),
        (
            ["run/architecture.yaml", *QUICK],
            "an architecture has no weights. Fix: --init FILE, or --from-scratch",
        ),
        (
            ["run", *QUICK, "--teacher", "supernet"],
            "--teacher supernet: run was searched without --supernet",
        ),
        (
            ["run", *QUICK, "--teacher", "small_l"],
            "--teacher small_l: its weights are missing. Fix: --teacher-weights",
        ),
        (
            ["run", *QUICK, "--distill", "firm"],
            "--distill firm: is unknown (expected none, hard or soft)",
        ),
        (
            ["run", *QUICK, "--distill", "hard"],
            "--distill hard: requires a teacher. Fix: name one with --teacher",
        ),
        (["run", *QUICK, "--mixup", "nan"], "--mixup nan: is not a finite number"),
        (
            ["run", *QUICK, "--batch", "1", "--accumulate", "2"],
            "batches of 1 images cannot be shared",
        ),
    ],
)
def test_bad_input_gets_one_line(
    nas: Nas, run: Architecture, arguments: list[str], reason: str
) -> None:
    code, out, err = nas("finetune", *arguments)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert err.splitlines()[-1].startswith("nas: ") and reason in err.splitlines()[-1]
    assert not Path("run/finetune/weights.safetensors").exists()


def test_data_with_other_classes_names_both_and_the_remedy(
    nas: Nas, run: Architecture, workplace: SimpleNamespace
) -> None:
    arch = run.at(classes=3)
    arch.save("run/architecture.yaml")
    save_file(build(arch).state_dict(), "run/weights.safetensors", {"format": "nas-weights-1"})
    code, _, err = nas("finetune", "run", *QUICK)
    assert code == 2
    assert (
        "run/weights.safetensors: has a head for 3 classes, the data has 10 (0, 1, 2, ..). Fix:"
        " --new-head" in err
    )
    code, _, err = nas("finetune", "run", *QUICK, "--new-head")
    assert code == 0, err
