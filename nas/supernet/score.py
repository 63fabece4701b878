"""From evaluations of the supernet to the scores that a search adds up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date

import numpy as np

from nas.data import ImageData, Splits
from nas.search.scores import Score, Scores
from nas.space import Space
from nas.supernet.checkpoint import Folder, load_supernet
from nas.supernet.sensitivity import Evaluation, Evaluator, measure
from nas.supernet.supernet import Supernet


def score(
    folder: Folder, data: Splits, *, images: int = 2000, calibration: int = 512, widths: int = 8, bf16: bool = False,
    report: Callable[[int, int, Evaluation], None] = lambda done, total, row: None,
) -> Scores:  # fmt: skip
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
    held_out = _some(data.held_out, images)
    evaluator = Evaluator(supernet, _some(data.train, calibration), held_out, bf16=bf16)
    journal = folder.root / "evaluations.csv"
    rows = measure(evaluator, supernet.space, journal, widths=widths, report=report)
    recipe = description["recipe"]
    trained = f"supernet of {supernet.space.name} trained {recipe['epochs']} epochs at {_size(supernet.space)}"
    notes = (
        f"accuracy drops on {held_out.source}",
        f"{trained} on {description['data']['source']}",
        f"batch norms recalibrated on {min(calibration, len(data.train))} training images; measured {date.today()}",
    )
    scores = Scores.of(supernet.space, to_scores(rows, importances(supernet)), notes,
                       baseline_accuracy=rows[0].accuracy, images=len(held_out), supernet=folder.root.name)  # fmt: skip
    scores.save(folder.root)
    return scores


def importances(supernet: Supernet) -> dict[tuple[int, int], float]:
    """The paper's importance of every MetaPath by stage and position, both from 1."""
    return {(stage + 1, position + 1): path.importance() for stage, position, path in supernet.metapaths()}


def to_scores(rows: Sequence[Evaluation], importance: Mapping[tuple[int, int], float]) -> list[Score]:
    """Scores from evaluations, the first of which is the largest member's.

    `accuracy_drop` is as measured: against the largest member, and for a localised block against the member before it
    in the order in which blocks are localised, so that the drops of several add up. `cost` is what the search counts
    with: the accuracy drop that goes with the move's increase in cross-entropy, by a monotone fit over all moves. The
    loss moves far less from one set of held-out images to another than the accuracy does, and a drop of two images in
    a thousand is noise. Along a stage's widths costs never fall as the width does.
    """
    largest = rows[0]
    before: dict[int, Evaluation] = {}
    scores = []
    for row in rows[1:]:
        base = before.get(row.stage, _last_local(before, largest)) if row.move == "localise" else largest
        if row.move == "localise":
            before[row.stage] = row
        share = importance.get((row.stage, row.position or 0)) if row.move == "drop" else None
        scores.append(Score(
            row.move, row.stage, 0.0, row.position, row.width, None if share is None else round(share, 4),  # type: ignore[arg-type]
            round(base.accuracy - row.accuracy, 3), round(row.standard_error, 3), round(row.loss - base.loss, 5),
        ))  # fmt: skip
    costs = _monotone([s.loss_increase or 0.0 for s in scores], [s.accuracy_drop or 0.0 for s in scores])
    return _ordered_widths([replace(s, cost=round(float(c), 4)) for s, c in zip(scores, costs, strict=True)])


def _last_local(before: Mapping[int, Evaluation], largest: Evaluation) -> Evaluation:
    """The member before the first localised block of a stage: all of the stages before it localised, or none."""
    return before[max(before)] if before else largest


def _monotone(loss: Sequence[float], drop: Sequence[float]) -> np.ndarray:
    """The accuracy drop as a non-decreasing function of the loss increase, 0 at 0."""
    from sklearn.isotonic import IsotonicRegression

    # The largest member itself is a point of the curve, and one that is known exactly.
    weights = [float(len(loss)), *np.ones(len(loss))]
    fit = IsotonicRegression(out_of_bounds="clip").fit([0.0, *loss], [0.0, *drop], sample_weight=weights)
    return fit.predict(loss)  # type: ignore[no-any-return]


def _ordered_widths(scores: list[Score]) -> list[Score]:
    """Narrower never costs less: the running maximum from the widest on, at least 0."""
    highest: dict[int, float] = {}
    ordered = {}
    for row in sorted((s for s in scores if s.move == "narrow"), key=lambda s: -(s.width or 0)):
        highest[row.stage] = max(highest.get(row.stage, 0.0), row.cost)
        ordered[row.key] = replace(row, cost=highest[row.stage])
    return [ordered.get(row.key, row) for row in scores]


def _some(data: ImageData, count: int) -> ImageData:
    """The first images; their order is stratified, so every class keeps its share."""
    if count >= len(data):
        return data
    return replace(data, images=data.images[:count], labels=data.labels[:count],
                   source=f"{data.source}, the first {count}")  # fmt: skip


def _size(space: Space) -> str:
    return "x".join(map(str, space.resolution))
