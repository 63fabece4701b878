"""Scoring a folder: again with the same, with something changed, interrupted, on few images,
without memory."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from nas.accuracy import RecordedScores, load_scores
from nas.accuracy.gate import gate
from nas.accuracy.recorded_file import weights_digest
from nas.accuracy.single_moves import LARGEST, variants
from nas.data import Splits, load_data
from nas.errors import InputError, NasError
from nas.runs.images import read_images
from nas.space import Space
from nas.supernet.checkpoint import Folder, describe, save_weights
from nas.supernet.options import Recipe
from nas.supernet.score import costs, score
from nas.supernet.sensitivity import Evaluator, measure
from nas.supernet.supernet import Supernet
from nas.supernet.walk import Walk
from nas.tasks.classify import accuracy_error, difference_error
from nas.testing.spaces import randomise

SIZE = (32, 32)


@pytest.fixture
def splits() -> Splits:
    return load_data("digits", SIZE, limit=120, held_out=40)


@pytest.fixture
def folder(small_space: Callable[..., Space], splits: Splits, tmp_path: Path) -> Folder:
    """A training that ended where it began."""
    folder = Folder(tmp_path / "trained")
    fill(folder, small_space().at(SIZE), splits, seed=0)
    return folder


def fill(folder: Folder, space: Space, splits: Splits, seed: int) -> None:
    torch.manual_seed(seed)
    supernet = Supernet(space)
    randomise(supernet)
    with torch.no_grad():
        for tensor in supernet.parameters():
            tensor.add_(0.01 * torch.randn_like(tensor))
    data = {"source": splits.train.source, "fingerprint": splits.train.fingerprint}
    describe(folder, space, Recipe(), data)
    save_weights(folder.weights, supernet)


class Run:
    """Scores, and keeps what was evaluated and said."""

    def __init__(self, folder: Folder, splits: Splits, **options: int) -> None:
        self.keys: list[tuple[str, str, str]] = []
        self.notes: list[str] = []
        scores = score(
            folder,
            splits,
            report=lambda done, total, row: self.keys.append(row.key),
            note=self.notes.append,
            **{"widths": 2, "calibration": 30, "images": 30} | options,  # type: ignore[arg-type]
        )
        assert scores is not None
        self.scores: RecordedScores = scores


def test_scores_say_what_they_were_measured_with(folder: Folder, splits: Splits) -> None:
    found = Run(folder, splits).scores
    loaded = load_scores(folder.root)
    assert isinstance(loaded, RecordedScores) and loaded.rows == found.rows
    with_what = loaded.measured_with
    assert with_what is not None and with_what == found.measured_with
    assert (with_what.images, with_what.calibration_images, with_what.widths) == (30, 30, 2)
    assert (with_what.precision, with_what.data) == ("fp32", splits.train.fingerprint)
    assert loaded.data == splits.train.part.dataset if splits.train.part else False
    assert loaded.metric == "top1" and loaded.images == 30
    loaded.check_evidence(data=splits.train.fingerprint)


def test_the_images_of_the_training_are_listed(folder: Folder, splits: Splits) -> None:
    """All held-out images are, also those beyond the first 30 that score."""
    Run(folder, splits)
    listed = read_images(folder.root / "images.csv")
    assert set(listed.held_out.tolist()) == set(splits.held_out.image_hashes().tolist())
    assert set(listed.trained.tolist()) == set(splits.train.image_hashes().tolist())
    assert (len(listed.held_out), len(listed.trained)) == (40, 80)
    # Scores on other images add to the list.
    other = load_data("digits", SIZE, limit=120, held_out=40, seed=1)
    Run(folder, other)
    both = read_images(folder.root / "images.csv")
    assert set(both.held_out.tolist()) == {
        *listed.held_out.tolist(),
        *other.held_out.image_hashes().tolist(),
    }


def test_the_same_again_evaluates_nothing_and_writes_the_same(
    folder: Folder, splits: Splits
) -> None:
    first = Run(folder, splits)
    files = {path.name: path.read_bytes() for path in folder.root.iterdir()}
    second = Run(folder, splits)
    assert first.keys and not second.keys and not second.notes
    assert {path.name: path.read_bytes() for path in folder.root.iterdir()} == files


def test_equal_weights_are_the_same_in_whatever_order_the_file_names_them(tmp_path: Path) -> None:
    """safetensors writes metadata in a random order."""
    tensors = {"b": torch.ones(3), "a": torch.zeros(2)}
    digests = set()
    contents = set()
    for number in range(30):
        path = tmp_path / f"{number}.safetensors"
        save_file(tensors, path, {key: key for key in ["format", "space", "seed"]})
        digests.add(weights_digest(path))
        contents.add(path.read_bytes())
    assert len(contents) > 1 and len(digests) == 1
    save_file({**tensors, "a": torch.ones(2)}, path, {"format": "format"})
    assert weights_digest(path) not in digests


def test_more_widths_evaluate_those_alone(folder: Folder, splits: Splits) -> None:
    Run(folder, splits, widths=1)
    more = Run(folder, splits, widths=3)
    assert not more.notes and {key[0] for key in more.keys} == {"narrow"}
    assert more.scores.rows == Run(folder, splits, widths=3).scores.rows


@pytest.mark.parametrize(
    ("options", "word"), [({"images": 20}, "images"), ({"calibration": 20}, "calibration images")]
)
def test_other_images_are_scored_anew(
    folder: Folder, splits: Splits, options: dict[str, int], word: str
) -> None:
    first = Run(folder, splits)
    journal = (folder.root / "evaluations.csv").read_bytes()
    second = Run(folder, splits, **options)
    assert second.keys == first.keys, "all of them"
    (note,) = second.notes
    assert f"{word} changed" in note and "evaluations-1.csv" in note and "\n" not in note
    assert (folder.root / "evaluations-1.csv").read_bytes() == journal
    assert yaml.safe_load((folder.root / "evaluations-1.yaml").read_text())["images"] == 30
    third = Run(folder, splits)
    assert third.keys == first.keys and (folder.root / "evaluations-2.csv").exists()
    assert third.scores.rows == first.scores.rows


def test_other_weights_are_scored_anew(
    folder: Folder, splits: Splits, small_space: Callable[..., Space], tmp_path: Path
) -> None:
    first = Run(folder, splits)
    fill(folder, small_space().at(SIZE), splits, seed=1)
    with pytest.raises(
        InputError, match=r"measured_with\.weights: the scores were measured on other weights"
    ):
        load_scores(folder.root)
    second = Run(folder, splits)
    assert second.keys == first.keys and "weights changed" in second.notes[0]
    fresh = Folder(tmp_path / "fresh")
    fill(fresh, small_space().at(SIZE), splits, seed=1)
    assert second.scores.rows == Run(fresh, splits).scores.rows != first.scores.rows
    load_scores(folder.root)


def test_evaluations_of_unknown_origin_are_set_aside(folder: Folder, splits: Splits) -> None:
    """Folders of older versions have no evaluations.yaml."""
    first = Run(folder, splits)
    (folder.root / "evaluations.yaml").unlink()
    second = Run(folder, splits)
    assert second.keys == first.keys
    assert "evaluations.yaml does not say what they were measured with" in second.notes[0]


def test_a_kill_while_scoring_anew_leaves_no_old_rows_beside_a_new_description(
    folder: Folder, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(folder, splits)

    def killed(self: RecordedScores, root: Path) -> None:
        assert not (root / "scores.csv").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecordedScores, "save", killed)
        Run(folder, splits, images=20)
    finished = Run(folder, splits, images=20)
    assert not finished.keys and finished.scores.images == 20


def test_scores_of_one_image_are_uncertain_and_gated(folder: Folder, splits: Splits) -> None:
    scores = Run(folder, splits, images=1).scores
    assert all(row.standard_error and row.standard_error > 10 for row in scores.rows)
    verdict = gate(scores)
    assert not verdict.usable and verdict.images == 1


ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not create a memory object"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("room", [0, 8])
def test_without_memory_it_is_one_line_with_the_command_that_works(
    folder: Folder, splits: Splits, monkeypatch: pytest.MonkeyPatch, error: Exception, room: int
) -> None:
    """Memory is there for `room` held-out images at once."""
    answer = Walk._answer

    def full(self: Walk, step: Any, x: torch.Tensor, run: Any) -> torch.Tensor:
        if len(x) > room:
            raise error
        return answer(self, step, x, run)

    with (
        monkeypatch.context() as patch,
        pytest.raises(NasError, match="out of memory while scoring moves on 30 images") as found,
    ):
        patch.setattr(Walk, "_answer", full)
        Run(folder, splits)
    said = str(found.value)
    assert "\n" not in said and found.value.exit_code == 1 and str(folder.root) in said
    if not room:
        assert "not even one fits" in said and "free memory and run the same command again" in said
        return
    assert ", 7 fit. Finished evaluations are kept." in said
    # The command is one that the options take.
    words = shlex.split(said.rpartition("Fix: ")[2])
    assert words[:2] == ["nas", "score"] and words[2] == str(folder.root)
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given == {"--data": "digits", "--images": "30", "--widths": "2", "--batch": "7"}
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "_answer", full)
        assert Run(folder, splits, batch=7).scores.images == 30


def test_an_error_of_another_kind_is_not_taken_for_one_of_memory(
    folder: Folder, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Walk, step: Any, x: torch.Tensor, run: Any) -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(Walk, "_answer", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        Run(folder, splits)


def test_a_smaller_batch_goes_on_with_what_was_evaluated(
    folder: Folder, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes no score, so evaluations of another batch are kept."""
    whole = Run(folder, splits)
    journal = folder.root / "evaluations.csv"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:5]))
    again = Run(folder, splits, batch=7)
    assert not again.notes and len(again.keys) == len(lines) - 5
    for one, other in zip(whole.scores.rows, again.scores.rows, strict=True):
        assert one.accuracy_drop == pytest.approx(other.accuracy_drop)
        assert one.loss_increase == pytest.approx(other.loss_increase, abs=2e-5)


def test_outputs_that_are_not_finite_are_named(
    folder: Folder, splits: Splits, small_space: Callable[..., Space]
) -> None:
    supernet = Supernet(small_space().at(SIZE))
    with torch.no_grad():
        for tensor in supernet.parameters():
            tensor.fill_(1e30)  # finite, so that the file is read; its sums overflow
    save_weights(folder.weights, supernet)
    with pytest.raises(
        NasError, match=r"outputs are not finite \(loss nan\) for the member 'none'"
    ):
        Run(folder, splits)


def test_standard_errors_are_of_the_comparison_with_the_member_before(
    choices_supernet: Callable[..., Supernet], splits: Splits
) -> None:
    """A localised block is compared with the member that has one local block less, an exchange with
    its own block."""
    changes = (("head_dim: [8, 12, 16]", "head_dim: [8, 16]"), ("12, null]", "8, null]"))
    supernet = choices_supernet("network_suffix", *changes)
    evaluator = Evaluator(supernet, splits.train, splits.held_out)
    wanted = variants(supernet.space, 2)
    rows = {row.key: row for row in evaluator.evaluate(wanted)}
    images = len(splits.held_out)
    chained = 0
    for variant in wanted:
        row = rows[variant.key]
        assert row.lost is not None and row.gained is not None
        if variant.key == LARGEST:
            assert row.standard_error == accuracy_error(row.accuracy, images)
            continue
        drop = rows[variant.base].accuracy - row.accuracy
        assert drop == pytest.approx(100 * (row.lost - row.gained) / images)
        assert row.standard_error == difference_error(row.lost, row.gained, images) > 0
        chained += variant.base != LARGEST
    assert chained > 2


def test_an_interrupted_scoring_compares_with_the_same_members(
    choices_supernet: Callable[..., Supernet], splits: Splits, tmp_path: Path
) -> None:
    """What a localised block is compared with was evaluated before the kill."""
    changes = (("head_dim: [8, 12, 16]", "head_dim: [8, 16]"), ("12, null]", "8, null]"))
    supernet = choices_supernet("network_suffix", *changes)
    evaluator = Evaluator(supernet, splits.train, splits.held_out)
    wanted = variants(supernet.space, 2)
    journal = tmp_path / "evaluations.csv"
    whole = measure(evaluator, wanted, journal)
    lines = journal.read_text().splitlines(keepends=True)
    chain = [i for i, line in enumerate(lines) if line.startswith("localise,")]
    for kept in (chain[0] + 1, chain[-1], len(lines) - 1):
        journal.write_text("".join(lines[:kept]) + lines[-1][:-3])  # cut off within its last value
        again = measure(evaluator, wanted, journal)
        for one, other in zip(whole, again, strict=True):
            assert one.accuracy == pytest.approx(other.accuracy, abs=1e-5), one.key
            assert (one.key, one.lost, one.gained) == (other.key, other.lost, other.gained)
        assert sorted(journal.read_text().splitlines()) == sorted(line.strip() for line in lines)


def test_a_journal_of_an_older_version_loads_and_grows(
    small_supernet: Callable[..., Supernet], splits: Splits, tmp_path: Path
) -> None:
    supernet = small_supernet()
    evaluator = Evaluator(supernet, splits.train, splits.held_out)
    wanted = variants(supernet.space, 2)
    journal = tmp_path / "evaluations.csv"
    measure(evaluator, wanted, journal)
    lines = [line.rsplit(",", 2)[0] for line in journal.read_text().splitlines()]
    journal.write_text("\n".join(lines[:9]) + "\n")
    rows = measure(evaluator, wanted, journal)
    assert sum(row.lost is None for row in rows) == 8
    assert {line.count(",") for line in journal.read_text().splitlines()} == {7}
    assert measure(evaluator, wanted, journal) == rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("drop,x,,nan,1.0,1.0,0,0", r"accuracy: 'nan' is not a finite number"),
        ("drop,x,,50,inf,1.0,0,0", r"loss: 'inf' is not a finite number"),
        ("drop,x,,50,1.0,-1.0,0,0", r"standard_error: -1 is negative"),
        ("drop,x,,50,1.0,1.0,many,0", r"lost: 'many' is not a finite number"),
    ],
)
def test_a_journal_with_figures_that_make_no_sense_is_refused(
    small_supernet: Callable[..., Supernet], splits: Splits, tmp_path: Path, row: str, reason: str
) -> None:
    evaluator = Evaluator(small_supernet(), splits.train, splits.held_out)
    journal = tmp_path / "evaluations.csv"
    journal.write_text(f"move,place,choice,accuracy,loss,standard_error,lost,gained\n{row}\n")
    with pytest.raises(InputError, match=rf"evaluations\.csv:2: {reason}"):
        measure(evaluator, variants(evaluator.supernet.space, 1), journal)


def test_there_may_be_nothing_to_cost() -> None:
    assert len(costs([])) == 0
