"""The surface of the command line: what it takes, and how it says no."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main

from nas.cli import app

SURFACE = {
    "spaces": ["name", "--json"],
    "devices": ["--json"],
    "search": ["--space", "--device", "--latency-ms", "--min-accuracy", "--max-drop", "--macs", "--params",
               "--memory-mb", "--engine", "--trials", "--seed", "--workers", "--storage", "--study", "--front",
               "--objective", "--candidates", "--score-by", "--data", "--evaluate-best", "--evaluate-images",
               "--scores", "--supernet", "--resolution", "--classes", "--segment", "--out", "--json"],
    "predict": ["arch", "--device", "--resolution", "--classes", "--segment", "--json"],
    "report": ["run", "--out", "--json"],
    "export": ["run", "--to", "--data", "--limit", "--calibrate", "--weights", "--out", "--json"],
    "profile": ["--space", "--device", "--resolution", "--classes", "--segment", "--unit", "--threads", "--affinity",
                "--benchmark-model", "--budget", "--retry", "--bundle", "--check-nets", "--run", "--merge", "--import",
                "--calibrate", "--out", "--json"],
    "check": ["--device", "run", "--space", "--nets", "--seed", "--resolution", "--classes", "--segment", "--no-rival",
              "--json"],
    "train": ["--space", "--data", "--resolution", "--epochs", "--batch", "--learning-rate", "--alpha-rate", "--noise",
              "--sampling", "--temperature", "--final-temperature", "--narrow", "--sandwich", "--precision",
              "--accumulate", "--channels-last", "--compile", "--ema", "--flip", "--init", "--init-member", "--seed",
              "--held-out", "--limit", "--score-images", "--score-widths", "--out", "--json"],
    "finetune": ["run", "--data", "--init", "--from-scratch", "--new-head", "--teacher", "--teacher-weights",
                 "--distill", "--distill-temperature", "--distill-weight", "--epochs", "--batch", "--learning-rate",
                 "--weight-decay", "--label-smoothing", "--mixup", "--cutmix", "--mix", "--flip", "--ema",
                 "--precision", "--accumulate", "--channels-last", "--compile", "--seed", "--held-out", "--limit",
                 "--out", "--json"],
}  # fmt: skip
"""Other programs call these; a change here is a change of contract."""


def test_commands_and_options_are_those_that_programs_rely_on() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {name: [param.opts[0] for param in command.params] for name, command in commands.items()} == SURFACE


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["sarch"], "No such command 'sarch'. Did you mean 'search'?"),
        (["search", "--space", "efficientformer"], "Missing option '--device'."),
        (["search", "--space", "efficientformer", "--device", "iphone12", "--latency-ms", "fast"], "'--latency-ms'"),
        (["predict", "efficientformer_l1", "--devise", "iphone12"], "No such option: --devise"),
        (["check", "--device", "host", "--nets", "0"], "'--nets'"),
    ],
)
def test_a_misused_command_gets_one_line_and_exit_code_2(arguments: list[str], reason: str) -> None:
    result = subprocess.run([sys.executable, "-m", "nas", *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("nas: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in SURFACE)])
def test_every_command_explains_itself(arguments: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", "nas", *arguments], capture_output=True, text=True)
    assert result.returncode == 0
    assert "Usage: nas" in result.stdout


def test_help_loads_nothing_heavy() -> None:
    heavy = (
        "torch",
        "numpy",
        "pandas",
        "scipy",
        "sklearn",
        "matplotlib",
        "datasets",
        "litert_torch",
        "optuna",
        "adbutils",
        "coremltools",
    )
    program = f"import sys, nas.cli; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
