"""`nas profile`: several devices, a budget, what it takes in, and which options exclude each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.cli.options import read_options, run_command
from nas.devices import DeviceLost
from nas.errors import InputError, NasError
from nas.latency import load_table
from nas.latency.options import ProfileOptions
from nas.option_values import make
from nas.testing.devices import FakeDevice

Capture = pytest.CaptureFixture[str]
profile = partial(run_command, "profile")


def seconds(text: str | None) -> float | None:
    """Return what --budget makes of a text."""
    return make(ProfileOptions, {"budget": text}).budget


@pytest.fixture
def phones(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDevice]:
    """Two connected phones by name, made of a formula."""
    found = {name: FakeDevice(unit=name) for name in ("left", "right")}
    monkeypatch.setattr("nas.devices._open", lambda name, *_: [found[name]])
    return found


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("5m", 300), ("1.5h", 5400), (" 2M ", 120), (None, None)]
)
def test_durations(text: str | None, expected: float | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "-3m", "0", "1e3s", "nan"])
def test_no_durations(text: str) -> None:
    with pytest.raises(
        InputError, match=r"--budget .*(expected a time, as 90s, 5m or 1h|is empty)"
    ):
        seconds(text)


@pytest.mark.parametrize("text", ["5", "1.5"])
def test_a_duration_needs_its_unit(text: str) -> None:
    with pytest.raises(
        InputError, match=rf"--budget {text}: the unit is missing .*Fix: --budget {text}m"
    ) as raised:
        seconds(text)
    assert raised.value.exit_code == 2


def test_devices_side_by_side(
    workplace: SimpleNamespace, phones: dict[str, FakeDevice], capsys: Capture
) -> None:
    profile(space="small", device=["left", "right"], json=True)
    made = json.loads(capsys.readouterr().out)
    assert [document["device"] for document in made] == ["left", "right"]
    for document in made:
        table = load_table(workplace.folder / document["table"])
        units = {dict(row.extra)["unit"] for row in table.rows.values() if row.runs}
        assert units == {document["device"]} and document["missing"] == 0
    assert all(phone.closed for phone in phones.values())


def test_one_that_is_lost_leaves_the_other_its_table(
    workplace: SimpleNamespace, phones: dict[str, FakeDevice], capsys: Capture
) -> None:
    phones["left"].lost_after = 5
    with pytest.raises(DeviceLost, match="left was unplugged"):
        profile(space="small", device=["left", "right"], json=True)
    assert [document["device"] for document in json.loads(capsys.readouterr().out)] == ["right"]
    phones["left"].lost_after = None
    profile(space="small", device=["left"], json=True)
    assert json.loads(capsys.readouterr().out)["reused"] > 0


def test_budget(workplace: SimpleNamespace, phones: dict[str, FakeDevice], capsys: Capture) -> None:
    phones["left"].delay_s = 0.06
    with pytest.raises(
        NasError, match=r"incomplete .*Fix: nas profile --space small --device left$"
    ) as raised:
        profile(space="small", device=["left"], budget="2s", json=True)
    assert raised.value.exit_code == 1
    less = json.loads(capsys.readouterr().out)
    assert 0 < less["left_out"] == sum(load_table("latency_tables/left").device.left_out.values())
    phones["left"].delay_s = 0.0
    profile(space="small", device=["left"], json=True)
    whole = json.loads(capsys.readouterr().out)
    assert 0 < less["measured"] < less["measured"] + whole["measured"] and whole["missing"] == 0
    assert not whole["left_out"] and not load_table("latency_tables/left").device.left_out


def test_import(workplace: SimpleNamespace, capsys: Capture) -> None:
    file = workplace.folder / "rows.csv"
    file.write_text(
        "kind,hyperparameters,input,median_ms\nflatten,,8x1x1,0.001\nwarp_drive,,8x1x1,1\n"
    )
    profile(device=["mine"], import_=file, json=True)
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert made["rows"] == 1 and len(made["skipped"]) == 1 and "warp_drive" in made["skipped"][0]
    assert "skipped: " in said.err
    assert len(load_table(workplace.folder / made["table"]).rows) == 1


@pytest.mark.parametrize("mask", ["", "f0", "070"])
def test_a_mask_is_text_and_may_be_empty(mask: str) -> None:
    """`--affinity ''` takes the mask of phone.yaml away."""
    assert make(ProfileOptions, {"affinity": mask}).affinity == mask


@pytest.mark.parametrize("mask", ["070", "70", "1e3", "f0", "0x70"])
def test_a_mask_in_a_file_stays_as_written(mask: str, tmp_path: Path) -> None:
    """YAML reads 070 as 56, and 1e3 as a text or a number."""
    config = tmp_path / "profile.yaml"
    config.write_text(f"space: emo\ndevice: phone\naffinity: {mask}\n")
    made = read_options("profile", {}, str(config))
    assert made.affinity == mask  # type: ignore[attr-defined]


def test_a_folder_beside_is_named_as_a_folder(
    workplace: SimpleNamespace, phones: dict[str, FakeDevice], capsys: Capture
) -> None:
    """A bare name would be the device of that name."""
    profile(space="small", device=["left"], out=Path("iphone12"), json=True)
    made = json.loads(capsys.readouterr().out)
    assert made["next"] == "nas check --device ./iphone12 --space small"
    assert load_table("./iphone12").device.kind == "fake"


def test_rows_that_are_ignored_say_why(workplace: SimpleNamespace, capsys: Capture) -> None:
    row = next(iter(load_table("iphone12").rows.values()))
    file = workplace.folder / "rows.csv"
    file.write_text(
        "kind,hyperparameters,input,median_ms\n"
        f'{row.kind},"{row.hyperparameters}",{row.input},{row.median_ms}\n'
    )
    profile(device=["iphone12"], import_=file, json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["kept"] == 1 and "measured (has runs and date)" in said.err


def test_calibrate(
    workplace: SimpleNamespace, phones: dict[str, FakeDevice], capsys: Capture
) -> None:
    file = workplace.folder / "nets.csv"
    before = load_table("iphone12")
    file.write_text("network,latency_ms\nefficientformer_l1,2.8\nefficientformer_l3,5.9\n")
    profile(device=["iphone12"], calibrate=file, json=True)
    made = json.loads(capsys.readouterr().out)
    assert made["nets"] == 2 and 1.5 < made["scale"] < 2.5
    after = load_table(workplace.folder / made["table"])
    assert (
        len(after.rows) == len(before.rows)
        and load_table("iphone12").path == workplace.folder / made["table"]
    )


Call = Callable[[Path], dict[str, Any]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: {"run": path, "merge": path}, "--run and --merge exclude each other"),
        (
            lambda path: {"bundle": path, "space": "small"},
            r"--bundle: needs one device \(got 0\)\. Fix: give --device once",
        ),
        (
            lambda path: {"import_": path / "a.csv", "device": ["a", "b"]},
            "--import: needs one device",
        ),
        (
            lambda path: {"space": "small", "device": ["a", "b"], "out": path},
            "--out: needs one device",
        ),
        (
            lambda path: {"space": "small"},
            "--device: is missing. Fix: nas profile --space SPACE --device DEVICE",
        ),
        (lambda path: {"device": ["host"]}, "--space: is missing. Fix: nas profile"),
        (lambda path: {"run": path}, "plan.json"),
        (lambda path: {"merge": path}, "plan.json"),
        (lambda path: {"calibrate": path / "none.csv", "device": ["iphone12"]}, "none.csv"),
    ],
)
def test_bad_input(workplace: SimpleNamespace, call: Call, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        profile(**call(tmp_path))
