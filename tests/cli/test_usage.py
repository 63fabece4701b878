"""The surface of the command line: what it takes, and how it says no."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import nas
from nas import __main__
from nas.cli import COMMANDS


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["sarch"], "No such command 'sarch'. Did you mean 'search'?"),
        (["search", "--space", "efficientformer"], "Missing option '--device'."),
        (
            [
                "search",
                "--space",
                "efficientformer",
                "--device",
                "iphone12",
                "--latency-ms",
                "fast",
            ],
            "--latency-ms fast: is not a quantity",
        ),
        (["predict", "efficientformer_l1", "--devise", "iphone12"], "No such option: --devise"),
        (["check", "--device", "host", "--nets", "0"], "--nets 0: is out of range"),
    ],
)
def test_a_misused_command_gets_one_line_and_exit_code_2(arguments: list[str], reason: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nas", *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("nas: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_every_command_explains_itself(arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nas", *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert "Usage: nas" in result.stdout


def test_help_loads_nothing_heavy() -> None:
    heavy = (
        "torch",
        "numpy",
        "pandas",
        "scipy",
        "sklearn",
        "vl_convert",
        "datasets",
        "litert_torch",
        "optuna",
        "adbutils",
        "coremltools",
    )
    program = f"import sys, nas.cli; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["-h"], *([name, "-h"] for name in COMMANDS)])
def test_help_has_a_short_name(arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nas", *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert "Usage: nas" in result.stdout


def test_the_version_is_told() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nas", "--version"], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout.strip()) == (0, f"nas {nas.__version__}")


@pytest.mark.parametrize(
    ("command", "option", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--batch-size", "--batch"),
        ("search", "--latency", "--latency-ms"),
        ("predict", "--devise", "--device"),
        ("train", "--gpu", ""),
        ("finetune", "--pretrained", ""),
    ],
)
def test_an_unknown_option_is_hinted_at_only_where_the_hint_helps(
    command: str, option: str, meant: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nas", command, option, "1"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert option in result.stderr
    assert (
        f"did you mean {meant}" in result.stderr if meant else "did you mean" not in result.stderr
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "nas", "spaces"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 1
    assert result.stderr == (
        "nas: stdout: could not be written (No space left on device). Fix: make room on its disk\n"
    )


def test_a_locale_without_the_letters_of_a_text_gets_escapes() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nas", "predict", "efficientformer_l1", "--device", "iphone12"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert r" \xb1 " in result.stdout and "Traceback" not in result.stderr


def test_a_removed_working_directory_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    command = f"cd {folder} && rmdir {folder} && {sys.executable} -m nas spaces"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "nas: the working directory was removed. Fix: cd to one that exists\n"


def test_a_warning_is_one_line_without_its_place_and_once_for_all_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr("nas.cli.app", lambda **options: 0)
    with pytest.raises(SystemExit):
        __main__.main()
    for rank, printed in (("0", "warning: two copies of the weights\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        warnings.showwarning("two copies\nof the weights", UserWarning, "a.py", 3)
        assert capsys.readouterr().err == printed
