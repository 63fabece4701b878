"""Damaged files of every format, given to the commands that read them.

Each one is refused in one line that names the file, or read as what it says. FAULTS_PER_SUBJECT
is the number of mutations per subject, FAULTS_SEED chooses others.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutations import Mutation, mutations
from run import outcomes
from subjects import SUBJECTS, Subject

import nas
from nas.devices.board.runner.plan import sha256

PER_SUBJECT = int(os.environ.get("FAULTS_PER_SUBJECT", "60"))
SEED = os.environ.get("FAULTS_SEED", "0")
SHARE_OF_CONTENTS = 0.5
"""Share of mutations of a file as a whole; the others are of its keys and cells."""
HOSTILE = ("flip", "cut", "swap", "empty")
"""Kinds of mutations of a model that its bundle's plan vouches for."""
WHOLE = ("place", "empty", "swap", "cut", "encoding", "bomb", "control", "double", "long")


def chosen(subject: Subject, template: Path) -> list[Mutation]:
    """Return the mutations of a subject, the same ones for one seed."""
    rng = random.Random(f"{subject.name} {SEED}")
    content = (template / subject.file).read_bytes()
    other = "net.yaml" if subject.kind == "csv" else "times.csv"
    every = mutations(content, subject.kind, rng, (template / other).read_bytes())
    # Reports draw their pictures anew each time.
    most = max(10, PER_SUBJECT // 4) if subject.slow else PER_SUBJECT
    if len(every) <= most:
        return every
    whole = [each for each in every if each.kind in WHOLE]
    parts = [each for each in every if each.kind not in WHOLE]
    first = rng.sample(whole, min(len(whole), round(most * SHARE_OF_CONTENTS)))
    return first + rng.sample(parts, min(len(parts), most - len(first)))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_damaged_file_is_refused_or_read(
    subject: Subject, template: Path, place: Path, record_property
) -> None:
    found = list(outcomes(subject, chosen(subject, template), template, place))
    counts = Counter(each.bad or f"exit {each.code}" for each in found)
    record_property("outcomes", dict(counts))
    print(f"{subject.name}: {dict(counts)}")
    bad = [each for each in found if each.bad]
    assert not bad, "\n".join(
        f"{each.bad}: {each.kind}: {each.mutation} (exit {each.code}): {each.text}" for each in bad
    )


IN_PROCESSES = ("space", "table", "device", "config", "run", "imported CSV")
"""Subjects that are also given to the command as a shell starts it."""


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_a_command_in_a_process_of_its_own_says_one_line(
    name: str, template: Path, place: Path
) -> None:
    subject = next(each for each in SUBJECTS if each.name == name)
    every = [each for each in chosen(subject, template) if each.kind in ("swap", "bomb", "cut")]
    for mutation in every[:4]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place, symlinks=True)
        mutation.apply(place / subject.file)
        done = subprocess.run(
            [sys.executable, "-m", "nas", *subject.use],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(Path(nas.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=120,
        )
        lines = done.stderr.splitlines()
        assert done.returncode in (0, 1, 2), f"{mutation.name}: {done.stderr}"
        if done.returncode:
            assert [line for line in lines if line.startswith("nas: ")] == lines[-1:], mutation.name
            assert Path(subject.file).name in lines[-1], f"{mutation.name}: {lines[-1]}"


def test_a_strangers_model_ends_no_run(template: Path, place: Path) -> None:
    """A model whose checksum is right may still end what measures it: it is one that cannot run."""
    content = (template / "models" / "files" / "1.tflite").read_bytes()
    rng = random.Random(f"models {SEED}")
    every = [each for each in mutations(content, "binary", rng, b"{}") if each.kind in HOSTILE]
    bad = []
    for mutation in rng.sample(every, min(len(every), max(6, PER_SUBJECT // 6))):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place, symlinks=True)
        folder = place / "models"
        mutation.apply(folder / "files" / "1.tflite")
        plan = json.loads((folder / "plan.json").read_text())
        plan["files"][1]["sha256"] = sha256(folder / "files" / "1.tflite")
        (folder / "plan.json").write_text(json.dumps(plan))
        (folder / "results.jsonl").unlink()
        done = subprocess.run(
            [sys.executable, "-m", "nas", "profile", "--run", "models", "--json"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(Path(nas.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=120,
        )
        # The other two files run in any case.
        counts = json.loads(done.stdout) if done.returncode == 0 else {}
        if counts.get("measured", 0) + counts.get("failed", 0) != 3 or counts["measured"] < 2:
            bad.append(f"{mutation.name}: exit {done.returncode}: {done.stderr[-300:]} {counts}")
    assert not bad, "\n".join(bad)
