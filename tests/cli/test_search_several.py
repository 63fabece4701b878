"""`nas search` on several devices: a front each, and the member that keeps every target."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import nas as api
from nas.latency import load_table
from nas.space import load_architecture

Nas = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def late(workplace: SimpleNamespace) -> None:
    """A second device, where blocks of stage 1 take five times as long, so that another member is
    best there."""
    first = workplace.folder / "latency_tables" / "toy"
    second = workplace.folder / "latency_tables" / "late"
    shutil.copytree(first, second)
    (second / "device.yaml").write_text(
        (first / "device.yaml").read_text().replace("name: toy", "name: late")
    )
    rows = list(csv.reader((first / "table.csv").read_text().splitlines()))
    times = [rows[0].index(name) for name in ("median_ms", "p10_ms", "p90_ms")]
    early = [row for row in rows[1:] if row[0] == "mb4d" and "x16x16" in row[2]]
    assert early, "the small space has no blocks of stage 1 at this size"
    for row in early:
        for column in times:
            row[column] = str(5 * float(row[column]))
    with (second / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_front_a_device_and_one_member_for_all(nas: Nas) -> None:
    code, out, err = nas(
        "search", "--space", "small", "--device", "toy", "--device", "late", "--json"
    )
    assert code == 0, err
    made = json.loads(out)
    assert [entry["device"] for entry in made["devices"]] == ["toy", "late"]
    space = api.load_space("small")
    scores = api.load_scores("small")
    common = load_architecture(made["architecture"])
    for entry in made["devices"]:
        table = load_table(entry["device"])
        assert table.total_ms(common) <= entry["target_ms"]
        best = load_architecture(entry["best"])
        assert table.total_ms(best) <= entry["target_ms"] and scores.cost(best) <= scores.cost(
            common
        )
        rows = list(csv.DictReader(Path(entry["front"]).read_text().splitlines()))
        assert len(rows) == entry["front_members"] > 1
        assert Path(entry["front"]).with_suffix(".png").stat().st_size > 0
    brute = (
        scores.cost(arch)
        for arch in map(space.sample, range(300))
        if all(load_table(e["device"]).total_ms(arch) <= e["target_ms"] for e in made["devices"])
    )
    assert made["members"]["best on all"]["cost"] <= min(brute)
    assert made["members"]["best on all"]["keeps_all"]
    assert err.count("target    ") == 2


def test_each_device_its_target_in_words(nas: Nas) -> None:
    code, out, err = nas(
        "search",
        "--space",
        "small",
        "--device",
        "toy",
        "--device",
        "late",
        "--latency-ms",
        "0.5",
        "--latency-ms",
        "0.9",
    )
    assert code == 0, err
    assert "target    0.5 ms, on toy" in err and "target    0.9 ms, on late" in err
    assert "best on all" in out and "toy ms" in out and "late ms" in out
    assert "next: nas predict" in err
    run = next(Path("runs").iterdir())
    code, _, err = nas("export", str(run), "--to", "config")
    assert code == 0 and err.splitlines()[-1] == f"next: nas check {run} --device toy"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--device", "toy", "--device", "toy"], "toy, toy: a device is named more than once"),
        (
            ["--device", "toy", "--device", "late", "--engine", "slimming"],
            "--engine slimming: does not search several devices. Fix: --engine exact",
        ),
        (
            ["--device", "toy", "--device", "late", *["--latency-ms", "1"] * 3],
            "3 targets for 2 devices",
        ),
        (["--device", "toy", "--device", "latte"], "did you mean 'late'"),
        (["--device", "toy", "--device", "late", "--latency-ms", "0.001"], "cannot be reached"),
    ],
)
def test_bad_input(nas: Nas, more: list[str], message: str) -> None:
    code, out, err = nas("search", "--space", "small", *more)
    assert code == 2 and message in err and not out and "Traceback" not in err
