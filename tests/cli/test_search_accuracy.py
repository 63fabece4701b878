"""`nas search` by the accuracy law, corrected by evidence: what it answers and what it says that
rests on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nas.accuracy import default_scores
from nas.accuracy.posterior_scores import PosteriorScores
from nas.accuracy.recorded import RecordedScores
from nas.latency import load_table
from nas.search import pose, solve
from nas.space import load_architecture, load_space, space_names

LEVELS = [name for name in space_names() if default_scores(load_space(name)).absolute]


@pytest.fixture
def law_space(workplace, nas):
    """The small space without scores of its own, so that the law is its default."""
    path = Path("search_spaces/small.yaml")
    text = "".join(
        line
        for line in path.read_text().splitlines(keepends=True)
        if not line.startswith("scores:")
    )
    path.write_text(text)
    return load_space("small")


@pytest.mark.parametrize("name", LEVELS)
def test_the_answer_is_in_percent_with_errors_and_not_below_what_is_published(nas, name):
    code, out, err = nas("search", "--space", name, "--device", "iphone12", "--json")
    assert code == 0, err
    document = json.loads(out)
    accuracy = document["accuracy"]
    assert document["engine"] == "exact"
    assert accuracy["standard_error"] > 0 and accuracy["metric"] == "top1" and accuracy["source"]
    assert document["latency_error"] > 0
    for row in document["published"].values():
        if row["latency_ms"] <= document["target_ms"]:
            assert accuracy["top1"] >= row["accuracy"]["top1"] - 1e-9
    run = yaml.safe_load(Path(document["run"], "run.yaml").read_text())
    assert run["engine"]["name"] == "exact"


@pytest.mark.parametrize("name", LEVELS)
def test_a_target_that_limits_nothing_gives_the_most_accurate_member(name):
    space = load_space(name)
    table = load_table("iphone12")
    scores = default_scores(load_space(name))
    found = solve(pose(space, table, scores, 500.0))
    tied = 0.05
    judge = scores.cautious()
    assert (
        judge.cost(found.architecture)
        <= min(
            judge.cost(arch)
            for arch in [space.largest(), *space.published.values(), *map(space.sample, range(30))]
        )
        + tied
    )


def test_the_fastest_member_of_an_accuracy(nas):
    command = ["search", "--space", "swiftformer", "--device", "iphone12"]
    code, out, err = nas(*command, "--min-accuracy", "80", "--json")
    assert code == 0 and "fastest with at least 80 %" in err
    document = json.loads(out)
    scores = default_scores(load_space("swiftformer"))
    arch = load_architecture(document["architecture"])
    assert scores.cautious().accuracy(arch).value >= 80 - 1e-6
    code, out, _ = nas(*command, "--max-drop", "3", "--json")
    largest = scores.accuracy(load_space("swiftformer").largest()).value
    found = load_architecture(json.loads(out)["architecture"])
    assert code == 0 and scores.cautious().accuracy(found).value >= largest - 3 - 1e-6
    code, _, err = nas(*command, "--min-accuracy", "95")
    assert code == 2 and "min_accuracy 95 % cannot be reached" in err
    code, _, err = nas(*command, "--max-drop", "-1")
    assert code == 2 and "--max-drop -1" in err


def test_the_answer_on_the_screen_is_short(nas):
    code, out, err = nas("search", "--space", "efficientformer", "--device", "iphone12")
    assert code == 0
    for text in ("found", "efficientformer_l1", "published; without it"):
        assert text in out
    for fact in (
        "accuracy  accuracy law",
        "latency   estimated table",
        "engine    exact: the proven optimum",
    ):
        assert any(line.startswith(fact) for line in out.splitlines())
    assert len(err.splitlines()) <= 3, "no step by step where nobody asked for the paper's engine"
    assert "±" in out.splitlines()[1]


@pytest.fixture
def trained(law_space, made_up_table, made_up_scores, monkeypatch):
    monkeypatch.setattr("nas.supernet.checkpoint.extract_to", lambda *arguments: None)
    sized = law_space.at(32, 5)
    made_up_table(sized).save("latency_tables/toy32")
    return made_up_scores(sized, 7)


def told(scores: RecordedScores, error: float) -> RecordedScores:
    """The scores as if they were measured, each row with a standard error."""
    rows = tuple(replace(row, accuracy_drop=row.cost, standard_error=error) for row in scores.rows)
    return replace(scores, rows=rows, supernet="one")


SEARCH = ["search", "--space", "small", "--device", "toy32", "--supernet", "runs/trained"]


def test_a_supernet_that_tells_moves_apart_corrects_the_law(nas, trained):
    told(trained, 0.05).save("runs/trained")
    code, out, err = nas(*SEARCH, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert "evidence  usable" in err
    assert "corrected by" in document["scores"]["provenance"]
    assert document["accuracy"]["top1"] == pytest.approx(
        trained.baseline_accuracy - document["cost"]
    )


def test_a_supernet_that_does_not_is_left_out_and_that_is_said(nas, trained):
    told(trained, 50.0).save("runs/trained")
    code, out, err = nas(*SEARCH, "--json")
    assert code == 0, err
    assert "evidence  not usable" in err and "The accuracy law is used without it." in err
    assert json.loads(out)["scores"]["provenance"].startswith("accuracy law fitted to")


def test_fine_tuned_runs_are_evidence(nas, trained, law_space, tmp_path):
    runs = []
    for number in range(3):
        arch = law_space.at(32, 5).sample(number)
        run = Path(f"runs/tuned{number}")
        arch.save(run / "finetune" / "architecture.yaml")
        figure = {"accuracy": 70.0 + number, "standard_error": 0.5, "images": 500}
        (run / "finetune" / "finetune.yaml").write_text(
            yaml.safe_dump(
                {
                    "data": {"source": "photos", "fingerprint": "abc"},
                    "accuracy": {"weights": "ema", "held_out": {"ema": figure}},
                }
            )
        )
        runs += ["--evidence", str(run)]
    size = ["--resolution", "32", "--classes", "5"]
    code, out, err = nas("search", "--space", "small", "--device", "toy32", *size, *runs, "--json")
    assert code == 0, err
    assert "3 trained members" in json.loads(out)["scores"]["provenance"]
    code, _, err = nas(
        "search", "--space", "small", "--device", "toy32", *size, "--evidence", "runs/nowhere"
    )
    assert code == 2 and "runs/nowhere: has no finetune/finetune.yaml" in err


def test_evaluated_members_correct_the_law(nas, trained, monkeypatch):
    from nas.accuracy import load_scores
    from tests.cli.test_search_evaluate import Judge

    told(trained, 0.05).save("runs/trained")
    monkeypatch.setattr("nas.supernet.evaluate.SlicedSupernet", Judge)
    monkeypatch.setattr(Judge, "asked", 0)
    code, out, err = nas(
        *SEARCH,
        "--score-by",
        "evaluate",
        "--data",
        "digits",
        "--trials",
        "10",
        "--out",
        "runs/one",
        "--json",
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["engine"] == "learned"
    scores = load_scores("runs/one")
    assert isinstance(scores, PosteriorScores)
    assert "held-out digits" in scores.provenance
    assert document["evaluated"] > 0


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--latency-ms", "1.2ms", 1.2),
        ("--latency-ms", "0.0012s", 1.2),
        ("--latency-ms", "1.2", 1.2),
    ],
)
def test_latencies_with_a_unit(nas, option, text, value):
    code, out, err = nas("search", "--space", "emo", "--device", "iphone12", option, text, "--json")
    assert code == 0, err
    assert json.loads(out)["target_ms"] == pytest.approx(value)


@pytest.mark.parametrize(("text", "count"), [("4M", 4e6), ("4e6", 4e6), ("3.5M", 3.5e6)])
def test_counts_with_a_suffix(nas, text, count):
    code, out, err = nas(
        "search", "--space", "emo", "--device", "iphone12", "--params", text, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["limits"] == {"params": count}
    code, _, err = nas("search", "--space", "emo", "--device", "iphone12", "--params", "4X")
    assert code == 2 and "4X" in err


def test_predict_tells_accuracy_and_where_it_is_from(nas):
    code, out, _ = nas("predict", "efficientformer_l1", "--device", "iphone12", "--json")
    accuracy = json.loads(out)["accuracy"]
    assert (
        code == 0
        and accuracy["top1"] == pytest.approx(79.2)
        and accuracy["predicted"] != accuracy["top1"]
    )
    code, out, _ = nas("predict", "emo_1m", "--device", "iphone12", "--resolution", "256")
    assert code == 0 and "±" in out and "accuracy law" in out


def test_spaces_tell_published_accuracies(nas):
    code, out, _ = nas("spaces", "--json")
    known = {
        member["name"]: member["top1"] for space in json.loads(out) for member in space["members"]
    }
    assert code == 0 and known["efficientformer_l1"] == 79.2 and known["efficientvit_l0"] is None
