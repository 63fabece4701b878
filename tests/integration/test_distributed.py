"""Training in two processes, started by torchrun as a user does: the weights of one process with
the same batch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nas.space import Space
from nas.supernet.supernet import Supernet

pytestmark = pytest.mark.slow

PROGRAM = """\
import functools, json, sys
import torch
from nas.data import load_data
from nas.space import load_space
from nas.supernet.options import Recipe
from nas.supernet.train import train
from nas.training.distributed import leave

# Some gradients, as those of biases before a batch norm, are nothing but rounding. AdamW's own eps
# of 1e-8 scales even them up to whole steps, so that two correct trainings drift apart; with this
# one steps are as small as gradients are.
torch.optim.AdamW = functools.partial(torch.optim.AdamW, eps=1e-3)

space, out, recipe, store = sys.argv[1:]
data = load_data("digits", (32, 32), limit=150, store=store).train
train(load_space(space).at(32), data, Recipe(**json.loads(recipe)), out)
leave()
"""


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def torchrun(count: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
    ]


def trained(
    folder: Path,
    space: Path,
    name: str,
    launcher: list[str],
    recipe: dict[str, Any],
    store: str = "memory",
) -> dict[str, Tensor]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    arguments = [str(space), str(folder / name), json.dumps(recipe), store]
    run([*launcher, str(program), *arguments], folder)
    return load_file(folder / name / "supernet.safetensors")


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


@pytest.mark.parametrize(
    ("change", "store"),
    [
        ({}, "memory"),
        ({"accumulate": 2, "ema": 0.9}, "memory"),
        ({"sandwich": 1, "sampling": "soft"}, "memory"),
        ({"mixup": 0.8, "cutmix": 1.0, "mix": 0.7, "repeats": 2}, "stream"),
    ],
)
def test_two_processes_get_the_weights_of_one(
    small_space: Callable[[str], Space], tmp_path: Path, change: dict[str, Any], store: str
) -> None:
    """The same batches of 27 images, shared as 13 and 14; tolerance 1e-5 where weights move by more
    than 1e-2.

    Rates are low: batch norm and high rates let rounding grow tenfold every few steps.
    """
    space = small_space("stage_suffix")
    recipe = {
        "epochs": 2,
        "batch": 27,
        "learning_rate": 0.003,
        "alpha_rate": 0.02,
        "flip": False,
    } | change
    one = trained(tmp_path, Path(space.path), "one", [sys.executable], recipe, store)
    two = trained(tmp_path, Path(space.path), "two", torchrun(2), recipe, store)
    assert largest_difference(two, one) < 1e-5
    torch.manual_seed(0)
    start = {name: value.detach() for name, value in Supernet(space.at(32)).named_parameters()}
    assert largest_difference(start, {name: one[name] for name in start}) > 1e-2
    for name in ("metrics.csv", "alpha.csv"):
        rows = [list(csv.DictReader((tmp_path / run / name).open())) for run in ("one", "two")]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    losses = [
        [float(row["loss"]) for row in csv.DictReader((tmp_path / run / "metrics.csv").open())]
        for run in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_the_command_under_a_launcher_speaks_once(
    small_space: Callable[[str], Space], tmp_path: Path
) -> None:
    """And one process goes on with what several began: under Accelerate's launcher, which starts
    just one on a CPU."""
    space = Path(small_space("network_suffix").path)
    command = [
        "-m",
        "nas",
        "train",
        "--space",
        str(space),
        "--data",
        "digits",
        "--limit",
        "150",
        "--epochs",
        "1",
        "--batch",
        "32",
        "--score-images",
        "20",
        "--score-widths",
        "2",
        "--out",
        "out",
        "--json",
    ]
    done = run([*torchrun(2), *command], tmp_path)
    document = json.loads(done.stdout)
    assert document["folder"] == "out" and (tmp_path / "out" / "scores.csv").exists()
    assert done.stderr.count("next: nas search") == 1
    accelerate = [
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    again = run([sys.executable, *accelerate, *command], tmp_path)
    assert json.loads(again.stdout)["baseline_accuracy"] == pytest.approx(
        document["baseline_accuracy"]
    )
    assert all(
        tensor.isfinite().all()
        for tensor in load_file(tmp_path / "out" / "supernet.safetensors").values()
    )
