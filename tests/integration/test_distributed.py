"""Training and scoring in two processes, started by torchrun as a user does: the weights of one
process with the same batch but for rounding, and its scores in every digit."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import nas
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


def run(
    command: list[str], folder: Path, code: int = 0, threads: int = 1
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": str(threads),
        "HOME": str(folder),
        "PYTHONPATH": str(Path(nas.__file__).parents[1]),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr[-3000:]
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
        ({"accumulate": 2, "drop_path": 0.4}, "memory"),
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


OVERLAP = """\
import json, sys
import numpy as np
import torch
import torch.distributed as dist
from nas.data import load_data
from nas.space import load_space
from nas.supernet.checkpoint import Folder
from nas.supernet.options import Recipe
from nas.supernet.supernet import Supernet
from nas.supernet.train import SupernetTask
from nas.training.batches import Batch, shares
from nas.training.distributed import GradientSums, leave, processes
from nas.training.step import Stepper

space, accumulate, bucket = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
together = processes()
data = load_data("digits", (32, 32), limit=60).train
recipe = Recipe(batch=27, accumulate=accumulate, flip=False, drop_path=0.2)
torch.manual_seed(0)
task = SupernetTask(Supernet(load_space(space).at(32)), recipe, Folder("unwritten"), steps=4)
stepper = Stepper(task, recipe, together, "here")
stepper.sums.close()
stepper.sums = GradientSums(stepper.module, together, bucket)
rows = []
for step in range(4):
    generator = torch.Generator().manual_seed(step)
    batch = Batch.draw(data, np.arange(27), recipe, generator)
    parts = list(shares(27, accumulate, together.index, together.count))
    choices = generator.get_state()
    named = list(stepper.module.named_parameters())

    # As one sum after the backward pass.
    stepper.state.optimizer.zero_grad()
    with stepper._synced():
        for start, stop in parts:
            stepper._backward(batch, start, stop, generator.set_state(choices))
    expected = {name: p.grad.clone() for name, p in named if p.grad is not None}
    for name in expected:
        dist.all_reduce(expected[name])

    stepper._gradients(batch, parts, generator.set_state(choices))
    early = len(stepper.sums._buckets)
    checksum = stepper.sums.launch_rest()
    stepper.sums.finish(checksum, 2 * checksum)
    found = {name: p.grad for name, p in named if p.grad is not None}
    differences = [
        float((found[name] - each).abs().max() / each.abs().max().clamp_min(1e-6))
        for name, each in expected.items()
    ]
    rows.append({
        "same": found.keys() == expected.keys(),
        "difference": max(differences),
        "early": early,
        "with": len(found),
        "without": sorted(n for n, p in named if p.grad is None),
    })
if together.main:
    print(json.dumps(rows))
leave()
"""


@pytest.mark.parametrize(("accumulate", "bucket"), [(1, 2000), (3, 2000), (1, 10**9)])
def test_gradients_are_summed_while_the_backward_pass_runs(
    small_space: Callable[[str], Space], tmp_path: Path, accumulate: int, bucket: int
) -> None:
    """To the same numbers, where paths that were not drawn have none and batch norms exchange sums
    in between."""
    space = small_space("stage_suffix")
    program = tmp_path / "overlap.py"
    program.write_text(OVERLAP)
    command = [*torchrun(2), str(program), str(Path(space.path)), str(accumulate), str(bucket)]
    rows = json.loads(run(command, tmp_path).stdout)
    assert len(rows) == 4
    for row in rows:
        assert row["same"] and row["difference"] < 1e-5 and row["without"]
        assert row["early"] > 3 if bucket == 2000 else row["early"] == 0
    assert len({tuple(row["without"]) for row in rows}) > 1, "all steps drew the same path"


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


def score_files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("evaluations.csv", "scores.csv")]


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the supernet `scored`, trained and scored by one process, and `bare`, without
    scores."""
    folder = tmp_path_factory.mktemp("supernet")
    words = "--space efficientformer_small --data digits --limit 400 --held-out 150 --epochs 1"
    run([sys.executable, "-m", "nas", "train", *words.split(), "--out", "scored"], folder)
    shutil.copytree(folder / "scored", folder / "bare")
    for name in ("evaluations.csv", "evaluations.yaml", "scores.csv", "scores.yaml"):
        (folder / "bare" / name).unlink()
    return folder


def words_of(name: str) -> list[str]:
    return ["-m", "nas", "score", name, "--data", "digits", "--json"]


@pytest.mark.parametrize("count", [2, 3])
def test_scores_of_several_processes_are_those_of_one_in_every_digit(
    supernet: Path, count: int
) -> None:
    name = f"by-{count}"
    shutil.copytree(supernet / "bare", supernet / name)
    done = run([*torchrun(count), *words_of(name)], supernet)
    assert json.loads(done.stdout)["folder"] == name
    assert done.stderr.count("next: ") == 1
    assert score_files(supernet / name) == score_files(supernet / "scored")


def test_scores_of_several_threads_are_those_of_one_in_every_digit(supernet: Path) -> None:
    shutil.copytree(supernet / "bare", supernet / "threads")
    run([sys.executable, *words_of("threads")], supernet, threads=3)
    assert score_files(supernet / "threads") == score_files(supernet / "scored")


@pytest.mark.parametrize("count", [1, 2])
def test_a_scoring_that_is_killed_goes_on_and_ends_with_the_same(
    supernet: Path, count: int
) -> None:
    name = f"killed-{count}"
    shutil.copytree(supernet / "bare", supernet / name)
    command = [*(torchrun(count) if count > 1 else [sys.executable]), *words_of(name)]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(supernet)}
    environment["PYTHONPATH"] = str(Path(nas.__file__).parent.parent)
    environment["XDG_CACHE_HOME"] = str(supernet / "cache")
    process = subprocess.Popen(
        command,
        cwd=supernet,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    journal = supernet / name / "evaluations.csv"
    while process.poll() is None and not journal.exists():
        time.sleep(0.01)
    if process.poll() is None:
        # The launcher's whole session. Those of its processes that it starts in one of their own
        # notice that the others are gone.
        process.send_signal(signal.SIGTERM if count > 1 else signal.SIGKILL)
        process.wait(timeout=60)
    assert journal.exists()
    run(command, supernet)
    assert score_files(supernet / name) == score_files(supernet / "scored")


@pytest.mark.parametrize("what", ["nowhere", "folder"])
def test_where_one_process_refuses_all_end_with_one_line(supernet: Path, what: str) -> None:
    """The first alone reads the journal, which is damaged here."""
    name = "nowhere"
    if what == "folder":
        name = "damaged"
        shutil.copytree(supernet / "scored", supernet / name)
        journal = supernet / name / "evaluations.csv"
        journal.write_text(journal.read_text() + "drop,x,,nan,1.0,1.0,0,0\n")
    done = run([*torchrun(2), *words_of(name)], supernet, code=1)  # torchrun's own code
    lines = [line for line in done.stderr.splitlines() if line.startswith("nas: ")]
    assert len(lines) == 1 and name in lines[0]


EVALUATION = """\
import sys
import torch
from nas.data import load_data
from nas.errors import NasError
from nas.finetune.result import accuracies
from nas.network import build
from nas.space import load_space
from nas.training.distributed import leave, processes
together = processes()
arch = load_space("efficientformer_small").at(32, 10).smallest()
data = load_data("digits", (32, 32), limit=150)
networks = []
for seed in range(3):
    torch.manual_seed(seed)
    networks.append(build(arch))
found = accuracies(networks[0], {"raw": networks[1], "ema": networks[2]}, None, data, together)
if sys.argv[1:]:
    try:
        with together.agreed():
            if together.main:
                raise NasError("disk full")
    except NasError as error:
        found = [type(error).__name__ for _ in range(2)]
sys.stdout.write(f"{together.index} {found}\\n")  # in one piece: two processes share the pipe
leave()
"""


def test_the_evaluation_of_a_fine_tuning_is_shared_and_equal(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(EVALUATION)
    one = run([sys.executable, str(program)], tmp_path).stdout
    two = run([*torchrun(2), str(program)], tmp_path).stdout
    expected = one.strip().removeprefix("0 ")
    assert sorted(two.splitlines()) == [f"0 {expected}", f"1 {expected}"]
    failed = run([*torchrun(2), str(program), "fail"], tmp_path).stdout
    assert sorted(failed.splitlines()) == [
        "0 ['NasError', 'NasError']",
        "1 ['Elsewhere', 'Elsewhere']",
    ]
