"""The file of the accuracy law, `nas/accuracy/law.yaml`: coefficients, their covariance, and published members."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nas.accuracy.law import SHARED, Law, Published, Recipe
from nas.files import YamlFile, write_yaml
from nas.validation import validated

FORMAT = "nas-law-1"
SHIPPED = Path(__file__).with_name("law.yaml")

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Recipe(_Model):
    family: str
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    distilled: bool


class _Published(_Model):
    top1: Annotated[float, Field(ge=0, le=100)]
    source: str
    side: Annotated[int, Field(gt=0)]
    predicted: _Finite
    standard_error: _Positive


class _LawFile(_Model):
    format: Literal["nas-law-1"]
    date: str
    rows: int
    floor: _Finite
    floor_error: _Positive
    factor_error: _Positive
    model_share: _Positive
    model_points: _Positive
    coefficients: dict[str, _Finite]
    covariance: list[list[_Finite]]
    recipes: dict[str, _Recipe]
    published: dict[str, _Published]


@cache
def shipped_law() -> Law:
    """Return the law that ships with the package."""
    return read_law(SHIPPED)


def read_law(path: str | Path) -> Law:
    """Read and validate the file of a law.

    Raises:
        InputError: naming file, line, key and reason.
    """
    file = YamlFile(path)
    data = validated(file, _LawFile, file.data)
    names = tuple(data.coefficients)
    for name in SHARED:
        if name not in names:
            raise file.error(["coefficients", name], "is missing. Fix: python scripts/fit_accuracy_law.py")
    covariance = data.covariance
    if [len(row) for row in covariance] != [len(names)] * len(names):
        reason = f"is not a {len(names)} x {len(names)} matrix, a row per coefficient"
        raise file.error(["covariance"], reason)
    matrix = np.array(covariance)
    if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix).min() < -1e-6:
        raise file.error(["covariance"], "is not symmetric and positive semidefinite")
    return Law(
        names=names,
        values=np.array(list(data.coefficients.values())),
        covariance=matrix,
        floor=data.floor,
        floor_error=data.floor_error,
        factor_error=data.factor_error,
        model_share=data.model_share,
        model_points=data.model_points,
        recipes={name: Recipe(name, each.family, each.epochs, each.distilled) for name, each in data.recipes.items()},
        published={name: Published(**each.model_dump()) for name, each in data.published.items()},
        rows=data.rows,
        date=data.date,
        path=str(path),
    )


def write_law(law: Law, path: str | Path, **further: Any) -> None:
    """Write the file that `read_law` reads; `further` keys are for people."""
    recipes = {
        each.name: {"family": each.family, "epochs": each.epochs, "distilled": each.distilled}
        for each in law.recipes.values()
    }
    document = {
        "format": FORMAT,
        "date": law.date,
        "rows": law.rows,
        **further,
        "floor": law.floor,
        "floor_error": law.floor_error,
        "factor_error": law.factor_error,
        "model_share": law.model_share,
        "model_points": law.model_points,
        "coefficients": {name: float(f"{value:.6g}") for name, value in law.coefficients.items()},
        "recipes": recipes,
        "published": {name: vars(each) for name, each in law.published.items()},
        "covariance": [[float(f"{value:.4g}") for value in row] for row in law.covariance.tolist()],
    }
    write_yaml(Path(path), document)
