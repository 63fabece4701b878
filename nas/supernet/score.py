"""From evaluations of the supernet to the scores that a search adds up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from nas.accuracy.recorded import RecordedScores, Score, position_name
from nas.data import ImageData, Splits
from nas.space import Space
from nas.supernet.checkpoint import Folder, load_supernet
from nas.supernet.sensitivity import Evaluation, Evaluator, Variant, measure, variants
from nas.supernet.supernet import Supernet


def score(
    folder: Folder, data: Splits, *, images: int = 2000, calibration: int = 512, widths: int = 8, bf16: bool = False,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
) -> RecordedScores:  # fmt: skip
    """Measures what each move costs on held-out images and writes `scores.csv` and `scores.yaml` into the folder.

    Args:
        folder: of a finished training.
        data: the splits it was trained with.
        images: held-out images to judge by, at most.
        calibration: training images that give the batch norms their statistics.
        widths: how many widths of each stage to measure; those between are interpolated.
        bf16: compute in bf16.
        report: called with the number done, the number wanted, and the last evaluation.
    """
    supernet, description = load_supernet(folder.root)
    held_out = first_images(data.held_out, images)
    evaluator = Evaluator(supernet, first_images(data.train, calibration), held_out, bf16=bf16)
    journal = folder.root / "evaluations.csv"
    wanted = variants(supernet.space, widths)
    rows = measure(evaluator, wanted, journal, report=report)
    recipe = description["recipe"]
    trained = f"supernet of {supernet.space.name} trained {recipe['epochs']} epochs at {_size(supernet.space)}"
    notes = (
        f"accuracy drops on {held_out.source}",
        f"{trained} on {description['data']['source']}",
        f"batch norms recalibrated on {min(calibration, len(data.train))} training images; measured {date.today()}",
    )
    scores = RecordedScores(supernet.space, tuple(to_scores(wanted, rows, importances(supernet))), notes,
                    baseline_accuracy=rows[0].accuracy, images=len(held_out), supernet=folder.root.name)  # fmt: skip
    scores.save(folder.root)
    return scores


def importances(supernet: Supernet) -> dict[str, float]:
    """The paper's importance of every MetaPath by the name of its place."""
    return {position_name(stage, position): path.importance() for stage, position, path in supernet.metapaths()}


def to_scores(variants: Sequence[Variant], rows: Sequence[Evaluation], importance: Mapping[str, float]) -> list[Score]:
    """Scores from evaluations, the first of which is the largest member's.

    `accuracy_drop` is as measured: against the largest member, and for a localised block against the member before it
    in the order in which blocks are localised, so that the drops of several add up (its standard error stays the one
    against the largest member, which is mostly too large). `cost`, which the search counts
    with, takes the noise out of it; see `costs`.
    """
    known = {row.key: row for row in rows}
    scores = []
    for variant, row in zip(variants[1:], rows[1:], strict=True):
        base, share = known[variant.base], importance.get(row.place) if row.move == "drop" else None
        scores.append(Score(
            row.move, row.place, 0.0, row.choice, None if share is None else round(share, 4),  # type: ignore[arg-type]
            round(base.accuracy - row.accuracy, 3), round(row.standard_error, 3), round(row.loss - base.loss, 5),
        ))  # fmt: skip
    return [replace(s, cost=round(float(c), 4)) for s, c in zip(scores, costs(scores), strict=True)]


def costs(scores: Sequence[Score]) -> NDArray[np.float64]:
    """The accuracy drop of each move with the noise of the held-out images taken out, in points.

    Empirical Bayes: what is known before a move's own accuracy is looked at is the drop that goes with its increase in
    cross-entropy, by a monotone fit over all moves (the loss varies less between sets of images than the accuracy).
    From there the measured drop counts as far as its standard error allows: by v / (v + se^2), where v is the variance
    of the true drops around the fit, as far as the standard errors do not explain it.
    """
    from sklearn.isotonic import IsotonicRegression

    drop = np.array([score.accuracy_drop for score in scores], dtype=float)
    error = np.array([score.standard_error for score in scores], dtype=float)
    # The largest member itself is a point of the curve: no loss, no drop.
    loss = [0.0, *(score.loss_increase or 0.0 for score in scores)]
    fit = IsotonicRegression(out_of_bounds="clip").fit(loss, [0.0, *drop]).predict(loss[1:])
    variance = max(float(np.mean((drop - fit) ** 2 - error**2)), 0.0)
    trust = variance / np.maximum(variance + error**2, 1e-12)
    return np.asarray(fit + trust * (drop - fit))


def first_images(data: ImageData, count: int) -> ImageData:
    """The first images; their order is stratified, so every class keeps its share."""
    if count >= len(data):
        return data
    return replace(data, images=data.images[:count], labels=data.labels[:count],
                   source=f"{data.source}, the first {count}")  # fmt: skip


def _size(space: Space) -> str:
    return "x".join(map(str, space.resolution))
