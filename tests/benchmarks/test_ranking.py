"""The ranking benchmark: its statistics, its files, and its commands on made-up accuracies."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranking
import ranking_members
from ranking_members import Member, begin, drawn, evenly, keep_protocol, latencies, read_members
from ranking_posterior import with_other_members
from ranking_statistics import ceiling, kendall, noise, tau
from scipy.stats import kendalltau

from nas.errors import InputError
from nas.finetune.options import Recipe
from nas.space import load_space


def members(count: int = 4) -> list[Member]:
    return [
        Member(family, arch)
        for family in ranking.FAMILIES
        for arch in drawn(load_space(str(ranking.SPACES / f"{family}_enumerable.yaml")), count)
    ]


def made_up(tmp_path: Path) -> Path:
    """Return a folder with members, trainings, a supernet's evaluations and latencies, made up.

    Accuracy follows the logarithm of MACs, so that MACs rank perfectly.
    """
    each = members(8)
    ranking_members.write_members(tmp_path / "members.csv", each, {})
    keep_protocol(tmp_path, {"images": 100, "held_out": 1000})
    for number, member in enumerate(each):
        value = 10 * float(np.log(member.architecture.macs)) - 90
        ranking_members.add(
            tmp_path / "trainings.jsonl", member=member.name, seed=0, accuracy=value
        )
        for turn in range(2):
            ranking_members.add(
                tmp_path / "latencies.jsonl", turn=turn, member=member.name, ms=1.0 + number
            )
        score = {"score": "supernet_half", "images": 500}
        ranking_members.add(tmp_path / "scores.jsonl", member=member.name, value=value / 2, **score)
    for member in each[:2]:
        ranking_members.add(tmp_path / "trainings.jsonl", member=member.name, seed=1, accuracy=60.0)
    for family in ranking.FAMILIES:
        ranking_members.add(
            tmp_path / "scores.jsonl",
            score="supernet_half",
            member=f"{family}-largest",
            value=40.0,
            images=500,
        )
    return tmp_path


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up(tmp_path_factory.mktemp("keep"))


@pytest.fixture(scope="module")
def summary(keep: Path) -> dict[str, Any]:
    """Return what `summarise` prints; it writes members.csv too."""
    return ranking.summarise(argparse.Namespace(keep=keep))


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["ranking.py", *words])
    ranking.main()
    return json.loads(capsys.readouterr().out)


def test_tau_of_orders() -> None:
    assert tau([1, 2, 3, 4], [5, 6, 7, 8])["tau"] == 1
    assert tau([4, 3, 2, 1], [5, 6, 7, 8])["tau"] == -1
    # One of six pairs is in the wrong order: (5 - 1) / 6.
    assert tau([1, 2, 4, 3], [5, 6, 7, 8])["tau"] == pytest.approx(4 / 6, abs=1e-3)


def test_tau_is_that_of_scipy() -> None:
    """It is computed for many resamples at once here; members drawn twice are ties."""
    generator = np.random.default_rng(3)
    first = generator.integers(0, 6, (20, 9)).astype(float)
    second = generator.integers(0, 6, (20, 9)).astype(float)
    expected = [kendalltau(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert kendall(first, second) == pytest.approx(np.array(expected))


def test_tau_has_wider_intervals_for_fewer_members() -> None:
    generator = np.random.default_rng(1)
    truth = generator.standard_normal(100)
    values = truth + generator.standard_normal(100)
    few, many = (tau(values[:count], truth[:count]) for count in (10, 100))
    assert few["percentile_95"] - few["percentile_5"] > many["percentile_95"] - many["percentile_5"]
    assert many["percentile_5"] < many["tau"] < many["percentile_95"]


def test_noise_is_pooled_over_members() -> None:
    # Deviations from the means 1 and 11: squares 1 + 1 with one free, 1 + 0 + 1 with two free.
    found = noise([{0: 0.0, 1: 2.0}, {0: 10.0, 1: 11.0, 2: 12.0}, {0: 50.0}])
    assert found == {"deviation": round(np.sqrt(4 / 3), 3), "members": 2, "trainings": 5}
    assert noise([{0: 1.0}])["deviation"] is None


def test_ceiling_falls_with_noise_and_rises_with_seeds() -> None:
    accuracies = np.linspace(60, 70, 24)
    perfect, little, much = (
        ceiling(accuracies, [1] * 24, deviation)["tau"] for deviation in (0.0, 0.5, 2.0)
    )
    assert perfect == 1
    assert much < little < perfect
    assert ceiling(accuracies, [9] * 24, 2.0)["tau"] > much


def test_ceiling_is_what_a_perfect_score_reaches() -> None:
    """From noisy accuracies alone it is near the mean tau of the true ones with noisy ones."""
    generator = np.random.default_rng(2)
    true = np.linspace(60, 70, 24)
    noisy = true + 1.5 * generator.standard_normal((200, 24))
    reached = np.mean(kendall(np.broadcast_to(true, noisy.shape), noisy))
    expected = np.mean([ceiling(each, [1] * 24, 1.5)["tau"] for each in noisy[:20]])
    assert expected == pytest.approx(reached, abs=0.03)


@pytest.mark.parametrize("family", ranking.FAMILIES)
def test_drawn_members_are_distinct_and_ordered(family: str) -> None:
    space = load_space(str(ranking.SPACES / f"{family}_enumerable.yaml"))
    each = drawn(space, 24)
    macs = [arch.macs for arch in each]
    assert macs == sorted(macs)
    assert len({arch.operations() for arch in each}) == 24
    for arch in each:
        space.validate(arch)


def test_every_beginning_of_the_order_is_spread() -> None:
    each = members(8)[:8]
    ordered = evenly(each)
    assert ordered[:3] == [each[0], each[7], each[3]]
    assert {member.name for member in ordered} == {member.name for member in each}
    for count in range(3, 8):
        places = sorted(each.index(member) for member in ordered[:count])
        # No gap is longer than an even one, rounded up, by more than one place.
        assert max(np.diff(places)) <= -(-7 // (count - 1)) + 1


def test_members_are_read_as_they_were_written(tmp_path: Path) -> None:
    each = begin(tmp_path, [str(ranking.SPACES / "swiftformer_enumerable.yaml")], 5)
    assert read_members(tmp_path / "members.csv") == each
    # A second call takes the file's, also where it is asked for others.
    assert begin(tmp_path, [], 99) == each


def test_a_file_without_architectures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "members.csv").write_text("family,member\na,b\n")
    with pytest.raises(InputError, match=r"members\.csv: column 'architecture' is missing"):
        read_members(tmp_path / "members.csv")


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    keep_protocol(tmp_path, {"images": 10})
    keep_protocol(tmp_path, {"images": 10})
    with pytest.raises(InputError, match=r"images: is another protocol \(got 11, expected 10\)"):
        keep_protocol(tmp_path, {"images": 11})


def test_latencies_are_ratios_within_whole_turns(tmp_path: Path) -> None:
    """A turn at half the speed changes nothing, and one that was stopped does not count."""
    path = tmp_path / "latencies.jsonl"
    for turn, factor in ((0, 1.0), (1, 2.0), (2, 1.0)):
        for member, ms in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
            ranking_members.add(path, turn=turn, member=member, ms=factor * ms)
    ranking_members.add(path, turn=3, member="a", ms=100.0)
    assert latencies(tmp_path) == {"a": 1.0, "b": 2.0, "c": 4.0}


def test_a_torn_journal_loses_its_last_line_alone(tmp_path: Path) -> None:
    made_up(tmp_path)
    before = ranking_members.accuracies(tmp_path)
    with (tmp_path / "trainings.jsonl").open("a") as file:
        file.write('{"member": "torn", "se')
    assert ranking_members.accuracies(tmp_path) == before


def test_a_stopped_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every member and seed is trained once; seeds follow when all members have one."""
    trained: list[tuple[str, int]] = []
    most = 3

    def train_alone(member: Member, splits: Any, recipe: Recipe, keep: Path) -> None:
        if len(trained) == most:
            raise KeyboardInterrupt
        trained.append((member.name, recipe.seed))
        ranking_members.add(
            keep / "trainings.jsonl", member=member.name, seed=recipe.seed, accuracy=50.0
        )

    monkeypatch.setattr(ranking, "_train_alone", train_alone)
    monkeypatch.setattr(ranking, "_images", lambda data, keep: None)
    words = ["train", "--keep", str(tmp_path), "--data", "none", "--members", "3"]
    words += ["--seeds", "2", "--repeated", "1"]
    with pytest.raises(KeyboardInterrupt):
        run(capsys, monkeypatch, *words)
    most = 100
    assert run(capsys, monkeypatch, *words) == {"members": 6, "trainings": 8}
    names = [member.name for member in read_members(tmp_path / "members.csv")]
    assert sorted(trained[:6]) == sorted((name, 0) for name in names)
    # The smallest member of each family is the first one of its order.
    assert trained[6:] == [(names[0], 1), (names[1], 1)]
    run(capsys, monkeypatch, *words)
    assert len(trained) == 8


@pytest.mark.parametrize("family", ranking.FAMILIES)
def test_a_member_is_not_scored_by_its_own_accuracy(family: str) -> None:
    space = load_space(str(ranking.SPACES / f"{family}_enumerable.yaml"))
    archs = drawn(space, 12)
    truth = [10 * float(np.log(arch.macs)) for arch in archs]
    changed = [*truth[:-1], truth[-1] + 20]
    expected = with_other_members(space, archs, truth, 1000, 0.5)
    other = with_other_members(space, archs, changed, 1000, 0.5)
    assert other[-1] == pytest.approx(expected[-1])
    # The other members' scores do take it in, except those of its own fold.
    assert abs(other[0] - expected[0]) > 1e-3


def test_summary(keep: Path, summary: dict[str, Any]) -> None:
    assert set(summary["families"]) == set(ranking.FAMILIES)
    for family in summary["families"].values():
        assert family["members"] == 8
        assert {"law", "parameters", "latency", "prior_and_members"} <= set(family["scores"])
        assert {"prior_and_supernet_half", "prior_and_supernet_half_and_members"} <= set(
            family["scores"]
        )
        assert all(-1 <= each["tau"] <= 1 for each in family["scores"].values())
    second = summary["families"][ranking.FAMILIES[1]]["scores"]
    assert second["macs"]["tau"] == 1
    assert second["supernet_half"]["tau"] == 1
    with (keep / "members.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert all(row["accuracy"] and row["latency_ms"] and row["supernet_half"] for row in rows)
    # Members of one seed have an empty cell for the second.
    assert [bool(row["accuracy_seed1"]) for row in rows] == [True] * 2 + [False] * 14


@pytest.mark.parametrize("scores", ["law", "macs", "CSV"])
def test_own_scores(
    keep: Path,
    summary: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scores: str,
) -> None:
    path = keep / "own.csv"
    lines = [
        f"{each.name},{-each.architecture.macs}" for each in read_members(keep / "members.csv")
    ]
    path.write_text("\n".join(["member,score", *lines]) + "\n")
    asked = str(path) if scores == "CSV" else scores
    result = run(capsys, monkeypatch, "score", str(keep / "members.csv"), "--scores", asked)
    for family, found in result["families"].items():
        same = summary["families"][family]["scores"]["law" if scores == "law" else "macs"]["tau"]
        assert found["tau"] == (-same if scores == "CSV" else same)


@pytest.mark.usefixtures("summary")
def test_a_missing_score_is_named(
    keep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keep / "incomplete.csv"
    path.write_text("member,score\n")
    with pytest.raises(SystemExit, match=r"incomplete\.csv: swiftformer_enumerable-sample\d+: col"):
        run(capsys, monkeypatch, "score", str(keep / "members.csv"), "--scores", str(path))
