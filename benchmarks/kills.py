"""Kill trainings, scorings and fine-tunings at random times, resume them, compare. Prints JSON.

    python benchmarks/kills.py [--kills 30] [--seed 0] [--only train score finetune]

Each command runs once undisturbed. Then it is started again and again in another folder and gets a
signal after a random time, in turn SIGKILL, SIGTERM and SIGINT, until it ends by itself. Its files
must then equal those of the undisturbed run: every weight, and every value of metrics and scores but
images per second. A new folder follows, until all kills are spent. Data are scikit-learn's digits.

    kills         signals that arrived before the command had ended, by signal
    codes         exit codes by signal; a shell adds 128 to the number of a signal
    rounds        folders in which the command ended at last
    different     files that differ from the undisturbed run, by folder: must be empty
    lost_seconds  longest time since the state was saved at the moment of a SIGKILL, or since the start
                  where nothing was saved yet
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import nas
from nas.versions import versions

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SPACE = "efficientformer_small"
TRAIN = ("train", "--space", SPACE, "--epochs", "6", "--batch", "64", "--score-widths", "2")
SCORE = ("--images", "300", "--widths", "4")
FINETUNE = ("--epochs", "12", "--from-scratch")
UNEQUAL = "images_per_second"
"""The column that measures the machine."""


@dataclass
class Command:
    """A command, how its folder is prepared, and which of its files count.

    Attributes:
        name: of the command.
        arguments: returns the command line for a folder.
        state: file that is saved while it runs.
        results: files that must be equal.
        prepare: fills a new folder.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    state: str
    results: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda folder: None


@dataclass
class Figures:
    """What was seen of one command."""

    kills: Counter[str] = field(default_factory=Counter)
    codes: dict[str, Counter[int]] = field(default_factory=dict)
    rounds: int = 0
    different: dict[str, list[str]] = field(default_factory=dict)
    lost_seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["train", "score", "finetune"])
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as root:
        every = commands(Path(root))
        figures = {
            command.name: killed(command, Path(root), chosen.kills // len(chosen.only), rng)
            for command in every
            if command.name in chosen.only
        }
    print(
        json.dumps(
            {
                "kills": sum(sum(each.kills.values()) for each in figures.values()),
                "equal": not any(each.different for each in figures.values()),
                **{name: vars(each) for name, each in figures.items()},
                "versions": versions("torch"),
            },
            indent=2,
        )
    )


def commands(root: Path) -> list[Command]:
    """Return the commands; what they need is made in `root`."""
    trained = root / "trained"
    member = root / "member.yaml"

    def copy(folder: Path) -> None:
        if not trained.exists():
            run([*TRAIN, "--data", "digits", "--out", str(trained)])
        shutil.copytree(trained, folder)
        # Moves that the training has scored would be taken from the journal.
        for path in folder.glob("evaluations*"):
            path.unlink()

    def save_member(folder: Path) -> None:
        nas.load_space(SPACE).at(32, 10).smallest().save(member)

    return [
        Command(
            "train",
            lambda folder: [*TRAIN, "--data", "digits", "--out", str(folder)],
            "state.safetensors",
            ("supernet.safetensors", "metrics.csv", "scores.csv", "evaluations.csv"),
        ),
        Command(
            "score",
            lambda folder: ["score", str(folder), "--data", "digits", *SCORE],
            "evaluations.csv",
            ("scores.csv", "evaluations.csv"),
            copy,
        ),
        Command(
            "finetune",
            lambda folder: [
                *("finetune", str(member), "--data", "digits", "--out", str(folder), *FINETUNE)
            ],
            "state.safetensors",
            ("weights.safetensors", "metrics.csv"),
            save_member,
        ),
    ]


def killed(command: Command, root: Path, kills: int, rng: random.Random) -> Figures:
    """Return what was seen of one command, with at least so many kills."""
    whole = root / f"{command.name}-whole"
    command.prepare(whole)
    began = time.monotonic()
    run(command.arguments(whole))
    seconds = time.monotonic() - began
    figures = Figures()
    while sum(figures.kills.values()) < kills:
        folder = root / f"{command.name}-{figures.rounds}"
        command.prepare(folder)
        while not ended(command, folder, seconds, rng, figures):
            pass
        figures.rounds += 1
        different = [
            name for name in command.results if content(whole / name) != content(folder / name)
        ]
        if different:
            figures.different[folder.name] = different
        print(f"{folder.name}: {figures}", file=sys.stderr, flush=True)
    return figures


def ended(
    command: Command, folder: Path, seconds: float, rng: random.Random, figures: Figures
) -> bool:
    """Start the command and send it a signal; return whether it ended by itself before that."""
    number = SIGNALS[sum(figures.kills.values()) % len(SIGNALS)]
    state = folder / command.state
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "nas", *command.arguments(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        # Up to half as long again: a resumed command starts anew, and other work may slow the machine.
        _, errors = process.communicate(timeout=rng.uniform(0, 1.5 * seconds))
    except subprocess.TimeoutExpired:
        if number == signal.SIGKILL:
            saved = max(began, state.stat().st_mtime) if state.exists() else began
            figures.lost_seconds = round(max(figures.lost_seconds, time.time() - saved), 1)
        process.send_signal(number)
        process.communicate()
        figures.kills[number.name] += 1
        figures.codes.setdefault(number.name, Counter())[process.returncode] += 1
        return False
    if process.returncode:
        raise SystemExit(f"{command.name}: {errors.decode()}")
    return True


def run(arguments: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run([sys.executable, "-m", "nas", *arguments], check=True, stdout=subprocess.DEVNULL)


def content(path: Path) -> Any:
    """Return what must be equal in a file of results: its tensors, or its rows."""
    if path.suffix == ".safetensors":
        return {name: (np.shape(each), each.tobytes()) for name, each in load_file(path).items()}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: value for name, value in row.items() if name != UNEQUAL}
            for row in csv.DictReader(file)
        ]


if __name__ == "__main__":
    main()
