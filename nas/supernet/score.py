"""Scores of single moves: evaluates each on the trained supernet, for a search to add up.

`nas.supernet.command` calls `score` for `nas score`, and for `nas train` after the training.
"""

from __future__ import annotations

import itertools
import shlex
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
from nas.runs.images import UsedImages, read_images, used_by
from nas.runs.schema import IMAGES_FILE
from nas.space import Space
from nas.space.place import Place
from nas.supernet.checkpoint import Folder, load_supernet
from nas.supernet.sensitivity import Evaluation, Evaluator, NoMemory, measure
from nas.supernet.supernet import Supernet
from nas.supernet.walk import calibration_images
from nas.tasks import task_of
from nas.training.distributed import Processes, processes

JOURNAL, JOURNAL_ABOUT = "evaluations.csv", "evaluations.yaml"
"""Files of the evaluated variants, and of the weights, images and precision of the evaluation."""
JOURNAL_FORMAT = "nas-supernet-evaluations-1"


def score(
    folder: Folder,
    data: Splits,
    *,
    images: int = 2000,
    calibration: int = 512,
    widths: int = 8,
    bf16: bool = False,
    batch: int | None = None,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
    note: Callable[[str], None] = lambda text: None,
) -> RecordedScores | None:
    """Measure the cost of each move on held-out images; write `scores.csv` and `scores.yaml`.

    Evaluations in the folder are reused when they were measured with the same weights, images and
    precision. Others are set aside. Processes that were launched together share the moves; the
    scores are those of one process.

    Args:
        folder: folder of a finished training.
        data: the splits it was trained with.
        images: maximum number of held-out images to evaluate on.
        calibration: maximum number of training images for the statistics of the batch norms.
        widths: maximum number of widths of each stage to measure; those between are interpolated.
        bf16: compute in bf16.
        batch: held-out images that are walked at once; by default as many as fit into a fixed
            share of memory.
        report: called with the number done, the number wanted, and the last evaluation.
        note: called with a line for the user where earlier evaluations were set aside.

    Returns:
        The scores; None in all processes of a launch but the main one.

    Raises:
        InputError: when there is no training, or a file is corrupt.
        NasError: when the training is not finished, its outputs are not finite, or memory ran out.
    """
    together = processes()
    with together.agreed():
        supernet, description = load_supernet(folder.root)
        supernet.to(together.device)
        held_out = first_images(data.held_out, images)
        most = calibration_images(supernet.space.largest(), calibration)
        train = first_images(data.train, most)
        measured_with = MeasuredWith(
            weights=weights_digest(folder.weights),
            data=data.train.fingerprint,
            images=len(held_out),
            calibration_images=len(train),
            widths=widths,
            precision="bf16" if bf16 else "fp32",
            date=str(date.today()),
        )
        if together.main:
            measured_with = open_journal(folder, measured_with, note)
            _list_images(folder, data)
    evaluator = Evaluator(supernet, train, held_out, batch=batch, bf16=bf16, together=together)
    wanted = variants(supernet.space, widths)
    try:
        rows = measure(evaluator, wanted, folder.root / JOURNAL, report=report)
    except NoMemory as error:
        raise _too_large(folder, data, len(held_out), widths, error) from error
    return _write(folder, supernet, description, wanted, rows, held_out, measured_with, together)


def _list_images(folder: Folder, data: Splits) -> None:
    """Write the list of the images that the training used, where it is missing or of other images.

    All held-out images are listed, also those beyond the first ones, because the training was
    evaluated on them.
    """
    path = folder.root / IMAGES_FILE
    before = _description_there(folder) or {}
    if path.is_file() and before.get("data", data.train.fingerprint) == data.train.fingerprint:
        return
    listed = read_images(path) if path.is_file() else UsedImages()
    (listed | used_by(data)).save(folder.root)


def _too_large(folder: Folder, data: Splits, images: int, widths: int, error: NoMemory) -> NasError:
    """Return the error of a scoring that ran out of memory, with the command that works."""
    said = f"{folder.root}: out of memory while scoring moves on {error.batch} images at once"
    if not error.fit:
        return NasError(
            f"{said}, and not even one fits. Finished evaluations are kept. Fix: free memory and run"
            " the same command again"
        )
    command = ["nas", "score", folder.root, "--data", data.train.name, "--images", images]
    command += ["--widths", widths, "--batch", error.fit]
    return NasError(
        f"{said}, {error.fit} fit. Finished evaluations are kept. Fix: {shlex.join(map(str, command))}"
    )


def _write(
    folder: Folder,
    supernet: Supernet,
    description: Mapping[str, Any],
    wanted: Sequence[Variant],
    rows: Sequence[Evaluation],
    held_out: ImageData,
    measured_with: MeasuredWith,
    together: Processes,
) -> RecordedScores | None:
    """Write the scores in the main process and return them; return None in the others."""
    scores = None
    with together.agreed():
        if together.main:
            recipe = description["recipe"]
            trained = (
                f"supernet of {supernet.space.name} trained {recipe['epochs']} epochs at"
                f" {_size(supernet.space)}"
            )
            notes = (
                f"accuracy drops on {held_out.source}",
                f"{trained} on {description['data']['source']}",
                f"batch norms recalibrated on {measured_with.calibration_images} training images;"
                f" measured {measured_with.date}",
            )
            scores = RecordedScores(
                supernet.space,
                tuple(to_scores(wanted, rows, importances(supernet))),
                notes,
                baseline_accuracy=rows[0].accuracy,
                images=len(held_out),
                supernet=folder.root.name,
                metric=task_of(supernet.space.heads[0]).metric,
                data=held_out.part.dataset if held_out.part else held_out.source,
                measured_with=measured_with,
            )
            if _description_there(folder) != asdict(measured_with):
                # The two files are written one after the other. A kill between them must not leave
                # the rows of earlier scores beside the description of the new ones.
                folder.scores.unlink(missing_ok=True)
            scores.save(folder.root)
    return scores


def open_journal(
    folder: Folder, measured_with: MeasuredWith, note: Callable[[str], None]
) -> MeasuredWith:
    """Describe the journal of a folder; set aside one that was measured with anything else.

    Args:
        folder: folder of the training.
        measured_with: weights, images and precision of the evaluation that begins.
        note: called with a line for the user where a journal was set aside.

    Returns:
        `measured_with`, with the date on which the measurement began.
    """
    rows = folder.root / JOURNAL
    about = folder.root / JOURNAL_ABOUT
    wanted = {"format": JOURNAL_FORMAT, **measured_with.identity}
    there = YamlFile(about).data if about.exists() else {}
    # The date is not compared: a journal that was begun on another day is continued.
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
        # Rows first: a kill between the two leaves a description without rows, which is harmless.
        rows.replace(aside)
        if about.exists():
            about.replace(aside.with_suffix(".yaml"))
        note(f"moves are scored anew: {why}; the earlier evaluations are in {aside}")
    write_yaml(about, {**wanted, "date": measured_with.date})
    return measured_with


def _description_there(folder: Folder) -> Any:
    """Return `measured_with` of the scores in the folder as plain data, or None without scores."""
    about = folder.scores.with_suffix(".yaml")
    return YamlFile(about).data.get("measured_with") if about.exists() else None


def _unused(root: Path) -> Path:
    """Return the first of evaluations-1.csv, evaluations-2.csv, ... that does not exist."""
    numbers = itertools.count(1)
    return next(
        path for n in numbers if not (path := root / f"{Path(JOURNAL).stem}-{n}.csv").exists()
    )


def importances(supernet: Supernet) -> dict[str, float]:
    """Return the importance of every MetaPath (`MetaPath.importance`) by the name of its place."""
    return {
        str(Place.block(stage, position)): path.importance()
        for stage, position, path in supernet.metapaths()
    }


def to_scores(
    variants: Sequence[Variant], rows: Sequence[Evaluation], importance: Mapping[str, float]
) -> list[Score]:
    """Return a score per evaluation but the first, which is the largest member's.

    `accuracy_drop` is the measured difference to the largest member. For a localised block it is
    the difference to the member before it in the order in which blocks are localised, so that the
    drops of several add up. The search uses `cost`, which is the drop without its noise (`costs`).

    Args:
        variants: members in the order of the rows.
        rows: their evaluations.
        importance: of each position, for moves that drop a block.
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
    """Return the accuracy drop of each move in points, shrunk to remove the noise of the images.

    Empirical Bayes. The prior mean of a move is the drop that belongs to its increase in
    cross-entropy, by a monotone fit over all moves: the loss varies less between sets of images
    than the accuracy. The posterior mean is fit + v / (v + se^2) * (drop - fit). Here se is the
    standard error of the drop and v the variance of the true drops around the fit.
    """
    from sklearn.isotonic import IsotonicRegression

    if not scores:  # of a space with a single member
        return np.empty(0)
    drop = np.array([score.accuracy_drop for score in scores], dtype=float)
    error = np.array([score.standard_error for score in scores], dtype=float)
    # The largest member itself is a point of the curve: no increase in loss, no drop.
    loss = [0.0, *(score.loss_increase or 0.0 for score in scores)]
    fit = IsotonicRegression(out_of_bounds="clip").fit(loss, [0.0, *drop]).predict(loss[1:])
    # Method of moments: the mean of (drop - fit)^2 is v + se^2. A negative estimate means that the
    # standard errors explain all of it; then the fit alone counts.
    variance = max(float(np.mean((drop - fit) ** 2 - error**2)), 0.0)
    # The floor avoids 0 / 0 where neither varies.
    trust = variance / np.maximum(variance + error**2, 1e-12)
    return np.asarray(fit + trust * (drop - fit))


def first_images(data: ImageData, count: int) -> ImageData:
    """Return the first images; their order is stratified, so every class keeps its share."""
    if count >= len(data):
        return data
    return replace(data.some(slice(count)), source=f"{data.source}, the first {count}")


def _size(space: Space) -> str:
    return "x".join(map(str, space.resolution))
