"""`nas train`: the verdict on its scores, what comes next, numbers that make no sense."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_training import TRAIN

from nas.accuracy import RecordedScores
from nas.accuracy.gate import Evidence, Reason, Verdict, verdict_on
from nas.cli import train
from nas.cli.score import show
from nas.data import Splits, load_data
from nas.option_values import make
from nas.supernet.options import TrainOptions
from nas.tasks.classify import difference_error

Nas = Callable[..., tuple[int, str, str]]


def test_the_verdict_and_the_next_command_are_told(nas: Nas) -> None:
    code, out, err = nas(*TRAIN, "--json")
    assert code == 0, err
    document = json.loads(out)
    evidence = document["evidence"]
    assert evidence["usable"] is False and evidence["reason"] in {reason.value for reason in Reason}
    assert f"evidence {evidence['text']}\n" in err and f"next: {document['next']}\n" in err
    assert document["held_out_images"] == 40 and document["moves"] > 10
    code, out, err = nas(*TRAIN, "--json")
    assert code == 0 and json.loads(out) == document and "scored anew" not in err
    code, out, err = nas(*TRAIN, "--json", "--score-images", "30")
    assert code == 0 and json.loads(out)["held_out_images"] == 30
    assert (
        "scores   moves are scored anew: images changed; the earlier evaluations are in"
        " t/evaluations-1.csv" in err
    )


@pytest.mark.parametrize(
    "option",
    [
        "--score-images=1",
        "--score-images=0",
        "--score-images=-1",
        "--score-widths=0",
        "--seed=-1",
        "--seed=99999999999999999999",
    ],
)
def test_numbers_out_of_range_are_refused_by_option(nas: Nas, option: str) -> None:
    code, _, err = nas(*TRAIN, option)
    assert code == 2 and option.split("=")[0] in err and "Traceback" not in err
    assert err.count("\n") == 1


@pytest.fixture
def splits() -> Splits:
    return load_data("digits", (32, 32), limit=400, held_out=100)


OPTIONS = make(TrainOptions, {"space": "small", "epochs": 2, "score_images": 50, "out": "t"})


def verdict(reason: Reason | None, needed: int | None = None) -> Verdict:
    error = difference_error(0, 0, 50)
    usual = verdict_on(
        Evidence(images=50, classes=10, accuracy=50.0, drops=(0.0, 9.0, 40.0), errors=(error,) * 3)
    )
    assert usual.usable
    return replace(usual, reason=reason, images_needed=needed)


def next_of(verdict: Verdict, splits: Splits) -> list[str] | None:
    command = train._remedy(OPTIONS, verdict, "t", splits)
    return None if command is None else shlex.split(command)


BASE = ["nas", "train", "--space", "small"]


def test_next_is_a_search_where_the_evidence_is_usable(splits: Splits) -> None:
    assert next_of(verdict(None), splits) is None


def test_the_next_search_is_for_a_device_that_has_a_table(
    workplace: SimpleNamespace,
    made_up_scores: Callable[..., RecordedScores],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = replace(made_up_scores(workplace.space), baseline_accuracy=50.0, images=50)

    def said() -> str:
        show("small", folder="t", scores=scores, verdict=verdict(None), remedy=None)
        return capsys.readouterr().err

    search = "next: nas search --space small --device {} --supernet t\n"
    without = said()
    assert without.endswith(search.format("iphone12"))
    assert "no latency table for this size: nas profile --space small --device host" in without
    shutil.copytree("latency_tables/toy", "latency_tables/host")
    assert said().endswith(search.format("host")) and "no latency table" not in said()


def test_next_is_a_longer_training_in_another_folder(splits: Splits) -> None:
    wanted = [*BASE, "--epochs", "6", "--score-images", "50", "--out", "t-6-epochs"]
    assert next_of(verdict(Reason.UNTRAINED, 80), splits) == wanted


def test_next_scores_on_more_of_the_held_out_images(splits: Splits) -> None:
    wanted = [*BASE, "--epochs", "2", "--score-images", "100", "--out", "t"]
    assert next_of(verdict(Reason.TOO_FEW_IMAGES, 98), splits) == [
        *BASE,
        "--epochs",
        "2",
        "--score-images",
        "98",
        "--out",
        "t",
    ]
    assert next_of(verdict(Reason.EQUAL_COSTS, 100), splits) == wanted


def test_next_holds_more_images_out_where_the_data_set_has_them(splits: Splits) -> None:
    wanted = [
        *BASE,
        "--epochs",
        "2",
        "--held-out",
        "160",
        "--score-images",
        "160",
        "--out",
        "t-160-held-out",
    ]
    assert next_of(verdict(Reason.TOO_FEW_IMAGES, 153), splits) == wanted
    assert next_of(verdict(Reason.TOO_FEW_IMAGES, 5000), splits) is None
    assert next_of(verdict(Reason.EQUAL_COSTS), splits) is None
