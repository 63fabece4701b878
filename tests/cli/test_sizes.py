"""Input sizes and the segmentation head on the command line: profiled, checked, searched and
predicted alike."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.blocks import FPNHead
from nas.errors import InputError
from nas.option_values import make
from nas.space import load_architecture
from nas.space.sizes import Sizes, between
from nas.testing.devices import FakeDevice

Nas = Callable[..., tuple[int, str, str]]
SIZE = ("--resolution", "64x96", "--segment", "5")


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is made of a formula."""
    monkeypatch.setattr("nas.devices.host.device.Host", FakeDevice)


def test_a_segmentation_network_from_profile_to_predict_by_the_named_commands(nas: Nas) -> None:
    """Only the first command is given; the others are those that the one before names."""
    code, out, _ = nas("profile", "--space", "small", "--device", "host", *SIZE, "--json")
    made = json.loads(out)
    assert code == 0 and made["failed"] == {}
    assert made["next"] == f"nas check --device host --space small {shlex.join(SIZE)}"
    code, out, _ = nas(*shlex.split(made["next"])[1:], "--nets", "5", "--json")
    found = json.loads(out)
    assert code == 0 and found["nets"] == 5 and found["within_5"] == 100
    assert found["resolution"].startswith("64x96/fpn_head(classes=5;")
    assert found["next"] == f"nas search --space small --device host {shlex.join(SIZE)}"
    code, out, _ = nas(*shlex.split(found["next"])[1:], "--json")
    searched = json.loads(out)
    assert code == 0
    arch = load_architecture(searched["architecture"])
    assert (arch.resolution, arch.head.kind, arch.classes) == ((64, 96), "fpn_head", 5)
    code, out, _ = nas("predict", searched["architecture"], "--device", "host", "--json")
    assert code == 0 and json.loads(out)["ms"] == pytest.approx(searched["latency_ms"])
    assert json.loads(out)["next"] == f"nas check --device host --space small {shlex.join(SIZE)}"
    code, out, _ = nas("predict", "small_s", "--device", "host", *SIZE, "--json")
    assert code == 0 and json.loads(out)["ms"] == pytest.approx(
        searched["published"]["small_s"]["latency_ms"]
    )
    assert json.loads(out)["breakdown"][-1]["kind"] == "fpn_head"


def test_check_goes_by_what_was_profiled_last(nas: Nas) -> None:
    nas("profile", "--space", "small", "--device", "host")
    nas("profile", "--space", "small", "--device", "host", *SIZE)
    _, out, _ = nas("check", "--device", "host", "--nets", "2", "--json")
    assert json.loads(out)["resolution"].startswith("64x96/fpn_head(classes=5;")
    code, _, err = nas("check", "--device", "host", "--nets", "2", "--classes", "10")
    assert code == 2 and err.rstrip().endswith(
        "nas profile --space small --device host --resolution 64x96"
    )
    code, out, _ = nas(
        "check",
        "--device",
        "host",
        "--nets",
        "2",
        "--classes",
        "10",
        "--resolution",
        "64",
        "--json",
    )
    assert code == 0 and json.loads(out)["resolution"] == "64x64/10"
    assert json.loads(out)["next"] == "nas search --space small --device host"


@pytest.mark.parametrize(
    ("options", "measure"),
    [
        (SIZE, "--resolution 64x96 --segment 5"),
        (("--segment", "5"), "--segment 5"),
        (("--resolution", "96", "--classes", "3"), "--resolution 96 --classes 3"),
        (("--resolution", "96x96"), "--resolution 96"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("search", "--space", "small"), ("predict", "small_s"), ("check", "--space", "small")],
)
def test_missing_rows_are_measured_by_the_named_command(
    nas: Nas, command: tuple[str, ...], options: tuple[str, ...], measure: str
) -> None:
    nas("profile", "--space", "small", "--device", "host")
    code, out, err = nas(*command, "--device", "host", *options)
    assert code == 2 and out == "" and err.count("\n") == 1
    named = err.strip().rpartition("Fix: ")[2]
    assert named == f"nas profile --space small --device host {measure}"
    assert nas(*shlex.split(named)[1:])[0] == 0
    assert nas(*command, "--device", "host", *options)[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ("profile", "--space", "small", "--device", "host"),
        ("search", "--space", "small", "--device", "toy"),
        ("predict", "small_s", "--device", "toy"),
        ("check", "--space", "small", "--device", "toy"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("--resolution", "big"),
            "--resolution big: expected one side, as in 512, or HEIGHTxWIDTH, as in 1024x2048",
        ),
        (("--resolution", "64x96x3"), "--resolution 64x96x3: expected one side"),
        (("--resolution", "-64"), "--resolution -64: expected one side"),
        (
            ("--resolution", "0"),
            "--resolution 0: resolution 0x0: both sides must be multiples of 32",
        ),
        (
            ("--resolution", "64x80"),
            "--resolution 64x80: resolution 64x80: both sides must be multiples of 32",
        ),
        (("--segment", "1"), "--segment 1: is out of range (expected a whole number, at least 2"),
        (("--classes", "0"), "--classes 0: is out of range (expected a whole number, at least 2"),
        (
            ("--segment", "5", "--head-width", "16,5000"),
            "--head-width 16,5000: is out of range (expected whole numbers from 1 to 4096",
        ),
        (
            ("--segment", "5", "--head-width", "16,16"),
            "--head-width 16,16: names a number twice (expected different ones). Fix: --head-width 32",
        ),
        (
            ("--segment", "5", "--head-depth", "1,deep"),
            "--head-depth 1,deep: is not a whole number (expected whole numbers from 1 to 8",
        ),
        (
            ("--segment", "5", "--classes", "4"),
            "--classes 4 with --segment 5: --segment already gives the number of classes",
        ),
    ],
)
def test_mistakes_get_one_line_that_names_the_option(
    nas: Nas, command: tuple[str, ...], options: tuple[str, ...], reason: str
) -> None:
    code, out, err = nas(*command, *options)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"nas: {reason}")
    assert not Path("latency_tables/host").exists()


def test_a_supernets_weights_do_not_go_under_another_head(
    nas: Nas, workplace: SimpleNamespace, made_up_scores: Callable[..., object]
) -> None:
    made_up_scores(workplace.space.at(32, 5), 7).save("runs/trained")  # type: ignore[attr-defined]
    code, _, err = nas(
        "search",
        "--space",
        "small",
        "--device",
        "toy",
        "--supernet",
        "runs/trained",
        "--segment",
        "5",
    )
    assert (
        code == 2 and "--segment 5: the supernet has a classifier" in err and err.count("\n") == 1
    )


def test_several_heads_are_choices_of_a_space_that_scores_must_know(
    nas: Nas, workplace: SimpleNamespace, made_up_scores: Callable[..., object]
) -> None:
    size = ("--segment", "5", "--head-width", "8,16")
    code, _, err = nas("predict", "small_s", "--device", "toy", *size)
    assert code == 2 and err == (
        "nas: --head-width 8,16: a network has one head (got 2). Fix: --head-width 8\n"
    )
    code, out, _ = nas("profile", "--space", "small", "--device", "host", *size, "--json")
    assert code == 0
    search = ("search", "--space", "small", "--device", "host", *size)
    code, _, err = nas(*search)
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("nas: 2 heads to choose from: these scores do not know")
    space = workplace.space.with_head(FPNHead(5, width=8), FPNHead(5, width=16))
    made_up_scores(space, 7).save("experiments/heads")  # type: ignore[attr-defined]
    code, out, _ = nas(*search, "--scores", "experiments/heads", "--json")
    document = json.loads(out)
    assert code == 0 and [row["width"] for row in document["heads"]] == [8, 16]
    (chosen,) = (row for row in document["heads"] if row["chosen"])
    assert load_architecture(document["run"]).head == FPNHead(5, width=chosen["width"])
    code, out, _ = nas(*search, "--scores", "experiments/heads")
    lines = [line for line in out.splitlines() if line.startswith("head  ")]
    assert len(lines) == 2 and sum(line.endswith(", chosen") for line in lines) == 1
    assert "width 16: +0.00 points" in lines[1]
    assert nas("report", document["run"])[0] == 0


def test_training_takes_sizes_that_are_not_square(nas: Nas) -> None:
    code, _, err = nas("train", "--space", "small", "--resolution", "64x80")
    assert code == 2 and err.startswith("nas: --resolution 64x80: ")


def test_options_say_what_turns_one_space_into_another(workplace: SimpleNamespace) -> None:
    whole = workplace.space
    for options in (
        [],
        ["--resolution", "96"],
        ["--resolution", "32x64", "--classes", "7"],
        ["--segment", "10"],
    ):
        names = options[::2]
        values = options[1::2]
        asked = make(Sizes, dict(zip((name[2:] for name in names), values, strict=True)))
        sized = asked.apply(whole)
        assert between(whole, sized).options() == options
        assert between(whole, sized.smallest()).options() == options
        assert asked.apply(whole.published["small_s"]) == sized.published["small_s"]
    options = ["--segment", "5", "--head-width", "8,64", "--head-depth", "2"]
    sized = make(Sizes, {"segment": 5, "head_width": "64,8", "head_depth": 2}).apply(whole)
    assert sized.heads == (FPNHead(5, width=8, depth=2), FPNHead(5, width=64, depth=2))
    assert between(whole, sized).options() == options
    with pytest.raises(InputError, match="--resolution 33"):
        make(Sizes, {"resolution": 33})
