"""The images that the result of `nas search` was trained on or chosen by, for its record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.runs.images import UsedImages
    from nas.search import Scores
    from nas.search.options import SearchOptions
    from nas.supernet.evaluate import SlicedSupernet


def used_images(
    options: SearchOptions, scores: Scores, evaluator: SlicedSupernet | None = None
) -> UsedImages:
    """Return the images that the result of a search is trained on or chosen by, for its record."""
    from nas.accuracy.evidence import SUBFOLDER
    from nas.accuracy.law_scores import LawScores
    from nas.runs.images import (
        UsedImages,
        images_of_evidence,
        images_of_scores,
        images_of_supernet,
        merged,
    )

    parts = [images_of_evidence(run, [SUBFOLDER]) for run in options.evidence]
    if options.supernet:
        path = Path(options.supernet)
        parts.append(images_of_supernet(path.parent if path.is_file() else path))
    # The law is fitted to published accuracies. All other scores were measured on images.
    if options.scores and not isinstance(scores, LawScores):
        parts.append(images_of_scores(options.scores))
    return merged([*parts, evaluator.used if evaluator else UsedImages()])
