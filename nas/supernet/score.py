"""From evaluations of the supernet to the scores that a search adds up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.accuracy.recorded import RecordedScores
from nas.accuracy.recorded_file import weights_digest
from nas.accuracy.single_moves import MeasuredWith, Score, Variant, variants
from nas.data import ImageData, Splits
from nas.errors import NasError
from nas.files import YamlFile, write_yaml
from nas.space import Space
from nas.space.place import Place
from nas.supernet.checkpoint import Folder, load_supernet
from nas.supernet.sensitivity import Evaluation, Evaluator, measure
from nas.supernet.supernet import Supernet
from nas.training.loop import out_of_memory

JOURNAL, JOURNAL_ABOUT = "evaluations.csv", "evaluations.yaml"
"""Evaluated variants of a supernet, and what they were measured with."""
JOURNAL_FORMAT = "nas-supernet-evaluations-1"


def score(
    folder: Folder,
    data: Splits,
    *,
    images: int = 2000,
    calibration: int = 512,
    widths: int = 8,
    bf16: bool = False,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
    note: Callable[[str], None] = lambda text: None,
) -> RecordedScores:
    """Measure what each move costs on held-out images and write `scores.csv` and `scores.yaml` into
    the folder.

    Evaluations that the folder has already are used again if they were measured with the same
    weights, images and precision. Others are set aside.

    Args:
        folder: of a finished training.
        data: the splits it was trained with.
        images: held-out images to evaluate on, at most.
        calibration: training images that give the batch norms their statistics, at most.
        widths: how many widths of each stage to measure; those between are interpolated.
        bf16: compute in bf16.
        report: called with the number done, the number wanted, and the last evaluation.
        note: called with a line for the user where earlier evaluations were set aside.

    Raises:
        InputError: when there is no training, or a file is corrupt.
        NasError: when the training is not finished, its outputs are not finite, or memory ran out.
    """
    try:
        return _score(folder, data, images, calibration, widths, bf16, report, note)
    except (RuntimeError, MemoryError) as error:
        if not _memory_ran_out(error):
            raise
        raise NasError(
            f"{folder.root}: out of memory while scoring moves. What was evaluated is kept. Free"
            " memory and run the same command again, or give a smaller --score-images"
        ) from error


def _score(
    folder: Folder,
    data: Splits,
    images: int,
    calibration: int,
    widths: int,
    bf16: bool,
    report: Callable[[int, int, Evaluation], None],
    note: Callable[[str], None],
) -> RecordedScores:
    supernet, description = load_supernet(folder.root)
    held_out = first_images(data.held_out, images)
    train = first_images(data.train, calibration)
    measured_with = MeasuredWith(
        weights=weights_digest(folder.weights),
        data=data.train.fingerprint,
        images=len(held_out),
        calibration_images=len(train),
        widths=widths,
        precision="bf16" if bf16 else "fp32",
        date=str(date.today()),
    )
    measured_with = open_journal(folder, measured_with, note)
    evaluator = Evaluator(supernet, train, held_out, bf16=bf16)
    wanted = variants(supernet.space, widths)
    rows = measure(evaluator, wanted, folder.root / JOURNAL, report=report)
    recipe = description["recipe"]
    trained = (
        f"supernet of {supernet.space.name} trained {recipe['epochs']} epochs at"
        f" {_size(supernet.space)}"
    )
    notes = (
        f"accuracy drops on {held_out.source}",
        f"{trained} on {description['data']['source']}",
        f"batch norms recalibrated on {len(train)} training images; measured {measured_with.date}",
    )
    scores = RecordedScores(
        supernet.space,
        tuple(to_scores(wanted, rows, importances(supernet))),
        notes,
        baseline_accuracy=rows[0].accuracy,
        images=len(held_out),
        supernet=folder.root.name,
        data=held_out.part.dataset if held_out.part else held_out.source,
        measured_with=measured_with,
    )
    if _description_there(folder) != asdict(measured_with):
        # The two files are written one after the other. A kill between them must not leave rows of
        # earlier scores beside the description of these.
        folder.scores.unlink(missing_ok=True)
    scores.save(folder.root)
    return scores


def open_journal(
    folder: Folder, measured_with: MeasuredWith, note: Callable[[str], None]
) -> MeasuredWith:
    """Set aside evaluations of the folder that were measured with anything else, and say so;
    describe the new ones.

    Returns:
        `measured_with`, with the date on which the measurement began.
    """
    rows = folder.root / JOURNAL
    about = folder.root / JOURNAL_ABOUT
    wanted = {"format": JOURNAL_FORMAT, **measured_with.identity}
    there = YamlFile(about).data if about.exists() else {}
    if all(there.get(name) == value for name, value in wanted.items()):
        return replace(measured_with, date=str(there.get("date", measured_with.date)))
    if rows.exists():
        aside = _unused(folder.root)
        changed = [
            name.replace("_", " ")
            for name in measured_with.identity
            if there.get(name) != wanted[name]
        ]
        why = (
            f"{', '.join(changed)} changed"
            if there
            else f"{about} does not say what they were measured with"
        )
        rows.replace(aside)
        if about.exists():
            about.replace(aside.with_suffix(".yaml"))
        note(f"moves are scored anew: {why}; the earlier evaluations are in {aside}")
    write_yaml(about, {**wanted, "date": measured_with.date})
    return measured_with


def _description_there(folder: Folder) -> Any:
    """Return what the scores in the folder were measured with, as plain data; None where there are
    none."""
    about = folder.scores.with_suffix(".yaml")
    return YamlFile(about).data.get("measured_with") if about.exists() else None


def _unused(root: Path) -> Path:
    """Return the first of evaluations-1.csv, evaluations-2.csv, ... that does not exist."""
    numbers = itertools.count(1)
    return next(
        path for n in numbers if not (path := root / f"{Path(JOURNAL).stem}-{n}.csv").exists()
    )


def _memory_ran_out(error: BaseException) -> bool:
    # oneDNN reports an allocation that failed like this. The training computed the same blocks
    # before, so that they are not ones that it has no primitive for.
    return out_of_memory(error) or "could not create a primitive" in str(error)


def importances(supernet: Supernet) -> dict[str, float]:
    """Return the paper's importance of every MetaPath by the name of its place."""
    return {
        str(Place.block(stage, position)): path.importance()
        for stage, position, path in supernet.metapaths()
    }


def to_scores(
    variants: Sequence[Variant], rows: Sequence[Evaluation], importance: Mapping[str, float]
) -> list[Score]:
    """Return scores from evaluations, the first of which is the largest member's.

    `accuracy_drop` is as measured: against the largest member, and for a localised block against
    the member before it in the order in which blocks are localised, so that the drops of several
    add up. `cost`, which the search counts with, takes the noise out of it; see `costs`.
    """
    known = {row.key: row for row in rows}
    scores = []
    for variant, row in zip(variants[1:], rows[1:], strict=True):
        base = known[variant.base]
        share = importance.get(row.place) if row.move == "drop" else None
        scores.append(
            Score(
                move=row.move,  # type: ignore[arg-type]
                place=row.place,
                cost=0.0,
                choice=row.choice,
                importance=None if share is None else round(share, 4),
                accuracy_drop=round(base.accuracy - row.accuracy, 3),
                standard_error=round(row.standard_error, 5),
                loss_increase=round(row.loss - base.loss, 5),
                lost=row.lost,
                gained=row.gained,
            )
        )
    return [replace(s, cost=round(float(c), 4)) for s, c in zip(scores, costs(scores), strict=True)]


def costs(scores: Sequence[Score]) -> NDArray[np.float64]:
    """Return the accuracy drop of each move with the noise of the held-out images taken out, in
    points.

    Empirical Bayes: what is known before a move's own accuracy is looked at is the drop that goes
    with its increase in cross-entropy, by a monotone fit over all moves (the loss varies less
    between sets of images than the accuracy). From there the measured drop counts as far as its
    standard error allows: by v / (v + se^2), where v is the variance of the true drops around the
    fit, as far as the standard errors do not explain it.
    """
    from sklearn.isotonic import IsotonicRegression

    if not scores:  # of a space with a single member
        return np.empty(0)
    drop = np.array([score.accuracy_drop for score in scores], dtype=float)
    error = np.array([score.standard_error for score in scores], dtype=float)
    # The largest member itself is a point of the curve: no loss, no drop.
    loss = [0.0, *(score.loss_increase or 0.0 for score in scores)]
    fit = IsotonicRegression(out_of_bounds="clip").fit(loss, [0.0, *drop]).predict(loss[1:])
    variance = max(float(np.mean((drop - fit) ** 2 - error**2)), 0.0)
    trust = variance / np.maximum(variance + error**2, 1e-12)
    return np.asarray(fit + trust * (drop - fit))


def first_images(data: ImageData, count: int) -> ImageData:
    """Return the first images; their order is stratified, so every class keeps its share."""
    if count >= len(data):
        return data
    return replace(
        data,
        images=data.images[:count],
        labels=data.labels[:count],
        source=f"{data.source}, the first {count}",
    )


def _size(space: Space) -> str:
    return "x".join(map(str, space.resolution))
