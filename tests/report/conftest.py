"""Runs of a small space, whole and with everything that later commands put beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.accuracy import RecordedScores, Scores
from nas.accuracy.evidence import corrected
from nas.accuracy.law import shipped_law
from nas.accuracy.law_scores import LawScores
from nas.figures import Figure
from nas.files import write_text, write_yaml
from nas.latency import load_table
from nas.search import load_scores, pose, solve
from nas.search.engines.exact import front
from nas.search.fastest import fastest
from nas.search.record import write_front, write_run
from nas.space import Architecture, Space, load_space

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(workplace: SimpleNamespace) -> MakeRun:
    """A function that searches the workplace's space and writes a run folder: name, --front or not,
    engine, scores."""

    def make(
        name: str = "one",
        with_front: bool = True,
        engine: str = "slimming",
        note: str = "a b",
        kind: str = "recorded",
        **options: float,
    ) -> Path:
        space = load_space("small")
        table = load_table("toy")
        target = None if options else fastest(space, table)[0] * 1.2
        problem = pose(space, table, _scores_of(kind, space), target, engine, **options)
        found = solve(problem)
        folder = Path("runs") / name
        write_run(
            folder,
            problem,
            found,
            ["nas", "search", "--space", "small", "--note", note, "--out", f"runs/{name}"],
        )
        if with_front:
            write_front(folder, problem, front(problem))
        return folder

    return make


@pytest.fixture
def rows_of() -> Callable[..., list[dict]]:
    """A function from a figure to the rows of its layers of one mark, such as "point"; of one
    series or of all."""

    def rows(figure: Figure, mark: str, series: str | None = None) -> list[dict]:
        layers = [each for each in figure.spec["layer"] if each["mark"]["type"] == mark]
        found = [row for each in layers for row in each["data"]["values"]]
        return [row for row in found if series is None or row.get("series") == series]

    return rows


@pytest.fixture
def scores_of() -> Callable[[str, Space], Scores]:
    """A function to scores of the workplace's space: law, recorded, posterior, or costs (recorded
    without a level)."""
    return _scores_of


def _scores_of(kind: str, space: Space) -> Scores:
    """Scores of the workplace's space of every kind."""
    recorded = load_scores("small")
    law = LawScores(space, shipped_law())
    assert isinstance(recorded, RecordedScores)
    if kind == "costs":
        without = replace(recorded, baseline_accuracy=None)
        without.save("experiments/costs")
        return load_scores("experiments/costs")
    return {"law": law, "recorded": recorded, "posterior": corrected(law, recorded)}[kind]


@pytest.fixture
def check_file() -> Callable[..., dict[str, object]]:
    """A function from a network and a device to what `nas check RUN` writes."""
    return _check_file


@pytest.fixture
def add_everything() -> Callable[[Path, Architecture], None]:
    """A function that puts a check, a fine-tuning, exports and the training's alpha beside a run's
    files."""

    def add(folder: Path, arch: Architecture) -> None:
        write_yaml(folder / "check-toy.yaml", _check_file(arch))
        write_yaml(folder / "finetune" / "finetune.yaml", _FINETUNE)
        write_text(
            folder / "finetune" / "metrics.csv",
            "step,steps,epoch,loss,accuracy\n10,20,0.5,2.1,30\n20,20,1,1.5,52\n",
        )
        write_text(folder / "finetune" / "weights.safetensors", "")
        write_yaml(folder / "export" / "export.yaml", _EXPORT)
        write_text(Path("experiments/small-toy/alpha.csv"), _alpha_csv(arch))

    return add


def _check_file(arch: Architecture, device: str = "toy") -> dict[str, object]:
    rows = [{"name": "intercept", "kind": "intercept", "predicted_ms": 0.1, "measured_ms": 0.12}]
    rows += [
        {"name": op.name, "kind": op.spec.kind, "predicted_ms": 0.01 * i, "measured_ms": 0.011 * i}
        for i, op in enumerate(arch.operations(), start=1)
    ]
    return {
        "format": "nas-run-check-1",
        "architecture": arch.name,
        "device": device,
        "measured_ms": 0.5,
        "predicted_ms": 0.48,
        "error_percent": -4.0,
        "provenance": "measured",
        "expected_error": None,
        "weights": None,
        "profile": "each alone",
        "operations": rows,
        "settings": {},
        "versions": {"nas": "0"},
        "date": "2026-01-31",
    }


_FINETUNE = {
    "format": "nas-finetune-1", "command": "nas finetune runs/one --data digits", "start": "inherited",
    "versions": {"nas": "0"}, "provenance": "trained for 1 epoch",
    "accuracy": {
        "weights": "ema",
        "held_out": {"source": "digits", "raw": {"accuracy": 70.0, "standard_error": 2.0, "images": 100},
                     "ema": {"accuracy": 71.5, "standard_error": 2.0, "images": 100}},
        "test": {"source": "digits", "raw": {"accuracy": 68.0, "standard_error": 1.0, "images": 300},
                 "ema": {"accuracy": 72.25, "standard_error": 1.0, "images": 300}},
    },
}  # fmt: skip

_EXPORT = {
    "format": "nas-export-1", "command": "nas export runs/one --to onnx", "run": "runs/one",
    "weights": {"provenance": "fine-tuned"},
    "targets": {"onnx": {
        "file": "model.onnx", "sha256": "00", "bytes": 1500000, "seconds": 1.0, "made": "00", "tolerance": 0.001,
        "differences": {"random": {"images": 4, "max_abs": 1e-6, "mean_abs": 1e-7, "relative": 2e-7,
                                   "top1_agreement": 100.0}},
        "accuracy": {"images": 300, "source": "digits", "before": 72.25, "after": 72.0}, "versions": {},
    }},
}  # fmt: skip


def _alpha_csv(arch: Architecture, steps: int = 3) -> str:
    """What `nas train` writes; shares that drift from uniform."""
    lines = ["step,position,local,global,identity"]
    for step in range(1, steps + 1):
        for index, stage in enumerate(arch.stages, start=1):
            for position in range(1, len(stage.blocks) + 1):
                drift = 0.02 * step * position
                shares = (
                    (0.5 + drift, "", 0.5 - drift) if index < 3 else (0.3, 0.4 + drift, 0.3 - drift)
                )
                lines.append(
                    ",".join([str(10 * step), f"stage{index}_block{position}", *map(str, shares)])
                )
    return "\n".join(lines) + "\n"
