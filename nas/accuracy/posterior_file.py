"""The files of scores by the accuracy law, with or without corrections by evidence.

A search writes them into its run folder, and `nas.accuracy.load_scores` reads them.

scores.yaml     the space, the level, the scale, the source of the corrections and their weight
law.yaml        the law's coefficients (`nas.accuracy.law`)
corrections/    corrections of the costs of single moves, in the format of recorded scores; only
                where evidence corrected the law
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nas.accuracy.law import read_law, write_law
from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior_scores import PosteriorScores
from nas.accuracy.recorded_file import read_scores
from nas.accuracy.scores import Scores
from nas.files import YamlFile, write_yaml
from nas.space.schema import space_from
from nas.validation import validated

FORMAT = "nas-scores-3"
LAW_FILE = "law.yaml"
CORRECTIONS = "corrections"

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["nas-scores-3"]
    space: dict[str, Any]
    recipes: dict[str, str] = {}
    metric: Literal["top1", "miou"] = "top1"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    level: Annotated[float, Field(ge=0, le=100)] | None = None
    shift: list[_Finite] | None = None
    evidence_share: _Finite = 0.0
    observed: int = 0
    source: str = ""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


def write_law_scores(scores: LawScores, folder: Path) -> None:
    """Write scores of the law without corrections."""
    write_law(scores.law, folder / LAW_FILE)
    write_yaml(
        folder / "scores.yaml", {**_about(scores), "scale": scores.scale, "metric": scores.metric}
    )


def write_posterior(scores: PosteriorScores, folder: Path) -> None:
    """Write scores of the law with corrections by evidence."""
    write_law(scores.law.law, folder / LAW_FILE)
    scores.rows.save(folder / CORRECTIONS)
    shift = scores.law.shift
    document = {
        **_about(scores.law),
        "metric": scores.metric,
        "scale": scores.law.scale,
        "level": scores.level,
        "shift": None if shift is None else [float(value) for value in shift],
        "evidence_share": scores.evidence_share,
        "observed": scores.observed,
        "source": scores.source,
        "noise": scores.noise,
    }
    write_yaml(folder / "scores.yaml", document)


def read_law_scores(path: Path) -> Scores:
    """Read the `scores.yaml` that `write_law_scores` or `write_posterior` wrote.

    Raises:
        InputError: with file, line, key and reason.
    """
    file = YamlFile(path)
    data = validated(file, _File, file.data)
    law = read_law(path.with_name(LAW_FILE))
    space = space_from(file, {**data.space, "recipe": data.recipes}, ["space"])
    scores = LawScores(space, law, scale=data.scale, path=str(path), metric=data.metric)
    # Without a shift of the coefficients no evidence corrected the law.
    if data.shift is None:
        return scores
    if len(data.shift) != len(law.names):
        raise file.error(
            ["shift"],
            f"does not fit {LAW_FILE} (got {len(data.shift)} values, expected one per coefficient,"
            f" {len(law.names)})",
        )
    # `law.yaml` holds the posterior's covariance, and the rows their standard errors: errors are
    # computed from these, as the model itself (`uncertainty`) is not kept.
    return PosteriorScores(
        law=scores.shifted(np.array(data.shift)),
        rows=read_scores(path.parent / CORRECTIONS / "scores.csv"),
        level=data.level,
        evidence_share=data.evidence_share,
        observed=data.observed,
        source=data.source,
        noise=data.noise,
        path=str(path),
        metric=data.metric,
    )


def _about(scores: LawScores) -> dict[str, Any]:
    space = scores.scored
    return {
        "format": FORMAT,
        "provenance": list(scores.notes),
        "space": space.to_dict(),
        "recipes": dict(space.recipes),
    }
