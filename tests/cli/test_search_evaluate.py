"""`nas search --score-by`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from nas.runs.images import UsedImages, read_images
from nas.runs.schema import read_about
from nas.search import Evaluated, load_scores
from nas.space import load_architecture

SEARCH = ["search", "--space", "small", "--device", "toy32", "--supernet", "runs/trained", "--json"]
EVALUATE = [*SEARCH, "--score-by", "evaluate", "--data", "digits"]


class Judge:
    """Stands for the sliced supernet: the fewer parameters, the less accurate; it can be stopped."""

    asked = 0
    stop_after = 10**9

    def __init__(self, root, data, images):
        assert (str(root), data) == ("runs/trained", "digits")
        self.of = {"supernet": "sum", "images": images}
        self.words = "held-out digits"
        self.used = UsedImages(held_out=np.arange(3, dtype=np.uint64))

    def evaluate(self, base, members):
        for member in members:
            if Judge.asked >= Judge.stop_after:
                raise KeyboardInterrupt
            Judge.asked += 1
            yield member, Evaluated(50 + member.params / 1e5, 1.0)


@pytest.fixture
def trained(workplace, made_up_table, made_up_scores, monkeypatch):
    space = workplace.space.at(32, 5)
    made_up_scores(space, 7).save("runs/trained")
    made_up_table(space).save("latency_tables/toy32")
    monkeypatch.setattr("nas.supernet.checkpoint.extract_to", lambda *arguments: None)
    monkeypatch.setattr("nas.supernet.evaluate.SlicedSupernet", Judge)
    monkeypatch.setattr(Judge, "asked", 0)
    return space


def test_a_run_lists_the_images_that_it_was_chosen_by(nas, trained):
    """Those of the supernet, of other scores, of evidence, and of the evaluation."""
    code, _, err = nas(*SEARCH, "--out", "runs/unlisted")
    assert code == 0, err
    record = yaml.safe_load(Path("runs/unlisted/run.yaml").read_text())["images"]
    assert record["unknown"] == ["runs/trained"], "a supernet of an older version"
    hashes = np.arange(100, dtype=np.uint64)
    UsedImages(hashes[10:40], hashes[2:9]).save(Path("runs/trained"))
    for name, more, held_out in (("plain", SEARCH, range(2, 9)), ("evaluated", EVALUATE, range(9))):
        code, _, err = nas(*more, "--out", f"runs/{name}")
        assert code == 0, err
        found = read_images(Path(f"runs/{name}/images.csv"))
        assert found.held_out.tolist() == list(held_out)
        assert found.trained.tolist() == list(range(10, 40))
        assert yaml.safe_load(Path(f"runs/{name}/run.yaml").read_text())["images"] == found.record()
    # The same scores without the weights; the law alone uses no image.
    search = ["search", "--space", "small", "--device", "toy32", "--resolution", "32", "--classes"]
    search += ["5", "--json"]
    code, _, err = nas(*search, "--scores", "runs/trained", "--out", "runs/scored")
    assert code == 0, err
    assert (
        read_images(Path("runs/scored/images.csv")).record()
        == read_images(Path("runs/trained/images.csv")).record()
    )
    code, _, err = nas(*search, "--scores", "small", "--out", "runs/shipped")
    assert code == 0, err
    assert read_images(Path("runs/shipped/images.csv")).unknown == ("small",)
    code, _, err = nas(*search, "--out", "runs/law")
    assert code == 0, err
    assert not Path("runs/law/images.csv").exists()
    assert "images" not in yaml.safe_load(Path("runs/law/run.yaml").read_text())


def test_the_member_for_several_devices_inherits_weights_too(
    nas, trained, made_up_table, monkeypatch
):
    # The table of `trained` is named "toy", and devices are told apart by their names.
    made_up_table(trained, name="other").save("latency_tables/other32")
    inherited = []
    monkeypatch.setattr(
        "nas.supernet.checkpoint.extract_to", lambda *arguments: inherited.append(arguments)
    )
    code, out, err = nas(*SEARCH, "--device", "other32", "--out", "runs/both")
    assert code == 0, err
    ((supernet, member, path),) = inherited
    assert (supernet, path) == ("runs/trained", Path("runs/both/weights.safetensors"))
    assert member == load_architecture(json.loads(out)["architecture"])
    assert {about.supernet for about in read_about(Path("runs/both")).values()} == {"runs/trained"}


def test_scores_that_a_supernet_replaces_are_refused(nas, trained):
    for more in (["--scores", "small"], ["--scores", "swiftformer", "--score-by", "alpha"]):
        code, _, err = nas(*SEARCH, *more)
        assert code == 2 and err == (
            f"nas: --scores {more[1]}: has no effect here (the search takes the scores that"
            " --supernet measured). Fix: leave it out\n"
        )


def test_members_are_evaluated_and_the_run_says_so(nas, trained):
    code, out, err = nas(*EVALUATE, "--evaluate-images", "70", "--out", "runs/one")
    assert code == 0, err
    document = json.loads(out)
    assert document["score_by"] == {
        "name": "evaluate",
        "best": 8,
        "judge": "held-out digits",
        "supernet": "sum",
        "images": 70,
    }
    found = load_architecture(document["architecture"])
    largest = trained.largest()
    assert document["evaluated"] == pytest.approx(50 + found.params / 1e5)
    assert document["drop"] == pytest.approx((largest.params - found.params) / 1e5)
    assert "held-out digits" in err and "--out runs/one" in err
    code, _, err = nas(*EVALUATE, "--out", "runs/one")
    assert code == 2 and "exists already and is not an empty folder" in err
    code, out, _ = nas(*EVALUATE[:-5], *EVALUATE[-4:], "--out", "runs/two")
    assert code == 0 and "points against its largest member" in out


def test_a_stopped_search_goes_on_in_its_folder(nas, trained, monkeypatch):
    monkeypatch.setattr(Judge, "stop_after", 5)
    code, _, err = nas(*EVALUATE, "--out", "runs/one")
    assert code == 130 and not Path("runs/one/run.yaml").exists()
    kept = "evaluations are kept in runs/one. Resume: run the same command again"
    assert err.splitlines()[-1] == f"nas: stopped by SIGINT; {kept}"
    monkeypatch.setattr(Judge, "stop_after", 10**9)
    code, out, err = nas(*EVALUATE, "--out", "runs/one")
    assert code == 0 and "5 members are in runs/one/evaluations.csv" in err
    twice = Judge.asked
    monkeypatch.setattr(Judge, "asked", 0)
    code, again, _ = nas(*EVALUATE, "--out", "runs/whole")
    assert code == 0 and twice == Judge.asked
    assert json.loads(again)["evaluated"] == json.loads(out)["evaluated"]


def test_what_was_learned_stands_in_the_run_and_its_front_is_by_that(nas, trained):
    code, out, err = nas(
        *EVALUATE, "--engine", "learned", "--trials", "12", "--front", "--out", "runs/one"
    )
    assert code == 0, err
    document = json.loads(out)
    scores = load_scores("runs/one")
    assert Judge.asked <= 12 and document["scores"]["path"] == "runs/one/scores.csv"
    assert (
        f"corrected by {Judge.asked} members that were evaluated: held-out digits"
        in scores.provenance
    )
    assert document["cost"] == pytest.approx(
        scores.cost(load_architecture(document["architecture"]))
    )
    with Path("runs/one/evaluations.csv").open() as file:
        evaluated = [float(row["accuracy"]) for row in csv.DictReader(file)]
    assert (
        document["evaluated"] in evaluated[1:]
        and evaluated[0] == 50 + trained.largest().params / 1e5
    )
    assert min(point["cost"] for point in document["front"]) <= document["cost"]


def test_alpha_is_the_papers_choice_of_candidates(nas, trained):
    found = [
        json.loads(nas(*SEARCH, *more)[1])
        for more in (["--score-by", "alpha"], ["--candidates", "paper"])
    ]
    first, second = (
        {key: value for key, value in each.items() if key not in ("run", "architecture", "next")}
        for each in found
    )
    assert (
        first == second
        and first["candidates"] == "paper"
        and first["score_by"] == {"name": "alpha"}
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            ["--score-by", "tables"],
            "--score-by tables: is unknown (expected table, evaluate or alpha). Fix: --score-by",
        ),
        (
            ["--score-by", "evaluate"],
            "requires --data, the images that the supernet was trained on. Fix: add it",
        ),
        (
            ["--data", "digits"],
            (
                "--data digits: has no effect here (requires --score-by evaluate, not --score-by"
                " table)"
            ),
        ),
        (
            ["--score-by", "alpha", "--engine", "exact"],
            "(requires --engine slimming, not --engine exact)",
        ),
        (
            ["--engine", "learned"],
            "learns from evaluated members (requires --score-by evaluate). Fix: add --score-by",
        ),
        (
            ["--score-by", "evaluate", "--data", "digits", "--engine", "tpe"],
            "works on one device, with the engine slimming or learned (got --engine tpe)",
        ),
        (
            ["--score-by", "evaluate", "--data", "digits", "--device", "toy"],
            "works on one device, with the engine slimming or learned (got 2 devices)",
        ),
    ],
)
def test_what_does_not_go_together_gets_one_line(nas, trained, more, reason):
    code, out, err = nas(*SEARCH, *more)
    assert code == 2 and out == "" and err.count("\n") == 1 and reason in err


def test_evaluating_needs_a_supernet(nas, trained):
    code, _, err = nas(
        "search",
        "--space",
        "small",
        "--device",
        "toy32",
        "--score-by",
        "evaluate",
        "--data",
        "digits",
    )
    assert code == 2 and "requires --supernet, the training run to slice. Fix: add it" in err
