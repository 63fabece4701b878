"""Prior and evidence: what was measured corrects the law as far as it can tell moves apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import kendalltau

from nas.accuracy import default_scores, load_scores
from nas.accuracy.evidence import corrected, trained_members
from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior import Observation, Posterior
from nas.accuracy.recorded import RecordedScores
from nas.accuracy.single_moves import variants
from nas.errors import InputError
from nas.space import Architecture, Space, load_space

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space(str(ROOT / "benchmarks" / "spaces" / "swiftformer_enumerable.yaml"))


@pytest.fixture(scope="module")
def law(space: Space) -> LawScores:
    scores = default_scores(space)
    assert isinstance(scores, LawScores)
    return scores


def members(space: Space, count: int, start: int = 0) -> list[Architecture]:
    return [space.sample(seed) for seed in range(start, start + count)]


def truth(law: LawScores) -> LawScores:
    """Other costs than the law's: its exponents and constants off by one standard error."""
    return law.with_values(law.law.values + np.sqrt(np.diag(law.law.covariance)))


def test_nothing_observed_leaves_the_law(space: Space, law: LawScores) -> None:
    scores = Posterior(law).expected()
    for arch in members(space, 10):
        assert scores.cost(arch) == pytest.approx(law.parts_cost(arch))
    assert scores.evidence_share == pytest.approx(0.0, abs=1e-9)


def test_precise_evidence_wins_and_teaches_the_scale(space: Space, law: LawScores) -> None:
    """Half of another law's costs, measured without noise, predict members that were not measured."""
    other = truth(law)
    seen = [
        Observation(arch, 0.5 * other.parts_cost(arch), 0.02, inherited=False)
        for arch in members(space, 60)
    ]
    posterior = Posterior(law, seen)
    unseen = members(space, 20, start=500)
    known = np.array([0.5 * other.parts_cost(arch) for arch in unseen])
    scores = posterior.expected()
    corrected_errors = np.abs([scores.cost(arch) for arch in unseen] - known)
    law_errors = np.abs([0.5 * law.parts_cost(arch) for arch in unseen] - known)
    assert corrected_errors.mean() < 0.3 * law_errors.mean()
    assert scores.evidence_share > 0.8


def test_evidence_that_cannot_tell_moves_apart_leaves_the_order_of_the_law(
    space: Space, law: LawScores
) -> None:
    generator = np.random.default_rng(0)
    seen = [Observation(arch, float(generator.normal(0, 20)), 20.0) for arch in members(space, 30)]
    scores = Posterior(law, seen).expected()
    assert scores.evidence_share < 0.2
    unseen = members(space, 30, start=500)
    order = kendalltau(
        [scores.cost(arch) for arch in unseen], [law.parts_cost(arch) for arch in unseen]
    )[0]
    assert order > 0.9


def test_more_evidence_means_smaller_errors(space: Space, law: LawScores) -> None:
    other = truth(law)
    arch = space.sample(999)
    errors = []
    for count in (5, 20, 80):
        seen = [
            Observation(each, other.parts_cost(each), 0.3, inherited=False)
            for each in members(space, count)
        ]
        errors.append(Posterior(law, seen, 80.0).expected().accuracy(arch).standard_error)
    assert errors[0] > errors[1] > errors[2] > 0


def test_half_trained_slices_are_believed_less_than_members_trained_alone(
    space: Space, law: LawScores
) -> None:
    """Moves that lose far more or less than the law says correct it less where the weights are
    inherited."""
    generator = np.random.default_rng(3)
    moves = variants(space)[1:]
    drops = [law.parts_cost(move.arch) + float(generator.normal(0, 8)) for move in moves]
    departure = {}
    for inherited in (True, False):
        seen = [
            Observation(move.arch, drop, 0.3, inherited)
            for move, drop in zip(moves, drops, strict=True)
        ]
        scores = Posterior(law, seen).expected()
        departure[inherited] = np.mean(
            [abs(scores.cost(move.arch) - law.parts_cost(move.arch)) for move in moves]
        )
    assert departure[True] < departure[False]


def test_draws_spread_around_what_is_expected(space: Space, law: LawScores) -> None:
    seen = [Observation(arch, law.parts_cost(arch), 1.0) for arch in members(space, 10)]
    posterior = Posterior(law, seen)
    arch = space.sample(77)
    generator = np.random.default_rng(0)
    drawn = [posterior.drawn(generator).cost(arch) for _ in range(60)]
    spread = posterior.variance(arch) ** 0.5
    assert np.mean(drawn) == pytest.approx(posterior.expected().cost(arch), abs=0.6 * spread)
    assert 0.4 * spread < np.std(drawn) < 2 * spread


@pytest.mark.parametrize("name", ["swiftformer-cifar10"])
def test_recorded_scores_correct_the_law(name: str) -> None:
    recorded = load_scores(name)
    law = load_scores(recorded.space)
    assert isinstance(recorded, RecordedScores)
    assert isinstance(law, LawScores)
    scores = corrected(law, recorded)
    assert 0 < scores.evidence_share < 1
    assert "corrected by" in scores.provenance
    largest = scores.scored.largest()
    assert scores.cost(largest) == pytest.approx(0.0, abs=1e-9)
    assert scores.accuracy(largest).value == pytest.approx(recorded.baseline_accuracy)


def test_parts_add_up(space: Space, law: LawScores) -> None:
    other = truth(law)
    seen = [
        Observation(variant.arch, other.parts_cost(variant.arch), 0.1)
        for variant in variants(space)
    ]
    scores = Posterior(law, seen).expected()
    for arch in map(space.place, members(space, 10)):
        total = scores.head_cost(arch.head)
        before = 3
        for index, stage in enumerate(arch.stages):
            counts = [scores.counts(index, block) for block in stage.blocks]
            total += scores.entry_cost(index, stage.entry, before)
            total += scores.stage_cost(
                index, stage.width, tuple(map(sum, zip(*counts, strict=True)))
            )
            total += sum(
                scores.block_cost(index, p, block, stage.width)
                for p, block in enumerate(stage.blocks)
            )
            before = stage.width
        assert scores.cost(arch) == pytest.approx(total, abs=1e-9)


def test_the_ranking_experiment(space: Space, law: LawScores) -> None:
    """Twenty members trained alone: the law ranks them, and four supernets that were recorded
    improve on it."""
    recorded = json.loads((ROOT / "experiments" / "ranking" / "result.json").read_text())
    archs = [space.sample(int(row["member"].rpartition("sample")[2])) for row in recorded["rows"]]
    alone = [row["alone"] for row in recorded["rows"]]
    assert kendalltau([-law.cost(arch) for arch in archs], alone)[0] >= 0.75
    taus = []
    for supernet in recorded["supernets"].values():
        inherited = supernet["inherited"]
        seen = [
            Observation(arch, max(inherited) - each, 0.6)
            for arch, each in zip(archs, inherited, strict=True)
        ]
        scores = Posterior(law, seen).expected()
        taus.append(kendalltau([-scores.cost(arch) for arch in archs], alone)[0])
    assert min(taus) >= 0.65
    assert np.mean(taus) >= 0.8


def fine_tuned(folder: Path, arch: Architecture, accuracy: float, data: str = "abc") -> str:
    """A run folder with a finished fine-tuning, as far as it is evidence."""
    arch.save(folder / "finetune" / "architecture.yaml")
    figure = {"accuracy": accuracy, "standard_error": 0.5, "images": 5000}
    description = {
        "data": {"source": f"images {data}", "fingerprint": data},
        "accuracy": {"weights": "ema", "held_out": {"ema": figure}},
    }
    (folder / "finetune" / "finetune.yaml").write_text(yaml.safe_dump(description))
    return str(folder)


def test_trained_members_give_level_and_scale(space: Space, law: LawScores, tmp_path: Path) -> None:
    """Nobody measured the largest member: what it would have follows from the others."""
    archs = members(space, 12)
    known = {arch: 80.0 - 0.3 * law.parts_cost(arch) for arch in archs}
    runs = [
        fine_tuned(tmp_path / str(number), arch, value)
        for number, (arch, value) in enumerate(known.items())
    ]
    scores = corrected(law, trained=trained_members(space, runs))
    assert scores.accuracy(archs[0]).value == pytest.approx(known[archs[0]], abs=1.0)
    assert scores.accuracy(space.largest()).value == pytest.approx(80.0, abs=2.0)
    assert "12 trained members" in scores.provenance


def test_runs_that_are_no_evidence_are_refused_by_name(space: Space, tmp_path: Path) -> None:
    first = fine_tuned(tmp_path / "first", space.sample(0), 70.0)
    other = fine_tuned(tmp_path / "other", space.sample(1), 71.0, data="xyz")
    strange = fine_tuned(tmp_path / "strange", load_space("emo").sample(0), 71.0)
    with pytest.raises(InputError, match=r"other: trained on images xyz, .*first on images abc"):
        trained_members(space, [first, other])
    with pytest.raises(InputError, match="strange: not a member of space 'swiftformer_enumerable'"):
        trained_members(space, [strange])
    with pytest.raises(InputError, match=r"empty: has no finetune/finetune\.yaml"):
        trained_members(space, [tmp_path / "empty"])
    with pytest.raises(InputError, match=r"--evidence .*first: is given twice"):
        trained_members(space, [first, f"{tmp_path}/other/../first"])
    for error in (".inf", "1e-300", "-1", ".nan"):
        path = Path(strange, "finetune", "finetune.yaml")
        path.write_text(path.read_text().replace("standard_error: 0.5", f"standard_error: {error}"))
        with pytest.raises(InputError, match=r"finetune\.yaml:\d+: accuracy: is 71 ± "):
            trained_members(space, [strange])
        path.write_text(path.read_text().replace(f"standard_error: {error}", "standard_error: 0.5"))
    Path(first, "finetune", "finetune.yaml").write_text("data: {fingerprint: abc, source: x}\n")
    with pytest.raises(InputError, match=r"finetune.yaml:1: accuracy: is missing"):
        trained_members(space, [first])


def test_the_files_come_back_as_they_were_written(
    space: Space, law: LawScores, tmp_path: Path
) -> None:
    other = truth(law)
    seen = [
        Observation(variant.arch, other.parts_cost(variant.arch), 0.3)
        for variant in variants(space)
    ]
    scores = Posterior(law, seen, 75.0, "a supernet").expected()
    for kept in (law, scores):
        kept.save(tmp_path / type(kept).__name__)
        again = load_scores(tmp_path / type(kept).__name__)
        assert type(again) is type(kept)
        for arch in members(space, 5):
            assert again.cost(arch) == pytest.approx(kept.cost(arch), abs=1e-3)
            assert again.accuracy(arch).value == pytest.approx(kept.accuracy(arch).value, abs=1e-3)
            error = kept.accuracy(arch).standard_error
            assert error / 3 < again.accuracy(arch).standard_error < 3 * error
