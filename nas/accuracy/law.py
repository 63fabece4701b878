"""The accuracy law: its deficit form, its coefficients with their covariance, and their file.

`nas.accuracy.law_scores` predicts members by it, and `benchmarks/accuracy_law.py` fits it. A network
is a sum of stage deficits over a floor (error and deficits in points of top-1):

    error = floor + F sum over stages of [ C(h) w^-a n^-b (e / 4)^-c  +  B(h) 2^(-m / H(h)) ]

    ln F = ln F_recipe + r ln(side / 224) + d distilled + t ln(epochs / 300) + p pool + q none

Each stage has the map size h = sqrt(H W), the width w, n blocks of mean expansion e, and m
attention blocks. The second term is the cost of having no attention. The exponents a, b, c are the
coefficients `width`, `depth`, `expansion`. The factors r, d, t, p, q are `resolution`, `distilled`,
`epochs`, `pool`, `none`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nas.files import YamlFile, write_yaml
from nas.validation import validated

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Numbers = Floats | float

MAPS = (1, 2, 4, 7, 14, 28, 56, 112)
"""Map sizes h at which ln C(h) is a coefficient.

Between them ln C is linear in log h, beyond them constant."""
ATTENTION_MAPS = (3.5, 7.0, 14.0, 28.0)
"""Map sizes h at which B(h) is given; between them it is linear in log h.

The two inner ones have a coefficient, ln B. At the outer ones and beyond B is 0: on smaller maps there
is nothing to attend to, and on larger ones no published row shows a gain."""
HALVES = (1.0, 2.0)
"""H(h) at the two inner sizes: how many attention blocks halve the cost of having none."""
SHARED = (
    *(f"map_{size}" for size in MAPS),
    "width",
    "depth",
    "expansion",
    "attention_7",
    "attention_14",
    "entry",
    "resolution",
    "distilled",
    "epochs",
    "pool",
    "none",
)
"""The coefficients that all recipes share.

A recipe adds `factor NAME`, which is ln F_recipe, and a family of recipes adds `floor NAME`."""
SIDE, EPOCHS, EXPANSION = 224.0, 300.0, 4.0
"""Input side (pixels), training length (epochs) and expansion at which their factors are 1."""


@dataclass(frozen=True)
class Features:
    """The features of networks that the law uses.

    Attributes:
        width: channels of each stage, (networks, 4), like the next five.
        blocks: number of blocks behind the entry.
        attention: how many of these are attention blocks.
        expansion: their mean expansion.
        map: sqrt(H W) of the stage's map.
        entry: 1 where the stage's entry is itself a block, else 0.
        side: sqrt(H W) of the image in pixels, (networks,), like the rest.
        distilled: 1 for training with a teacher, else 0.
        epochs: length of the training.
        pool, none: 1 where pooling, or nothing, mixes tokens; both are 0 for convolutions.
        factor, floor: names of the coefficients of the recipe and its family.
    """

    width: Floats
    blocks: Floats
    attention: Floats
    expansion: Floats
    map: Floats
    entry: Floats
    side: Floats
    distilled: Floats
    epochs: Floats
    pool: Floats
    none: Floats
    factor: tuple[str, ...]
    floor: tuple[str, ...]


@dataclass(frozen=True)
class MapTerms:
    """The terms that depend on a stage's map size, in the shape of the map sizes.

    Attributes:
        constant: ln C(h).
        without: B(h), the cost of a stage without attention, in points at F = 1.
        half: H(h), the number of attention blocks that halves that cost.
    """

    constant: Numbers
    without: Numbers
    half: Numbers


def map_terms(coefficients: Mapping[str, float], map: Numbers) -> MapTerms:
    """Return ln C(h), B(h) and H(h), interpolated linearly in log h and constant beyond the ends."""
    # In octaves, since each stage halves the side of the map.
    log_map = np.log2(map)
    # B at ATTENTION_MAPS; its coefficients are logarithms, so that B is positive.
    missing = [
        0.0,
        math.exp(coefficients["attention_7"]),
        math.exp(coefficients["attention_14"]),
        0.0,
    ]
    # `np.interp` keeps the end values beyond the ends: B is 0 there, and H is that of the nearest
    # known size.
    return MapTerms(
        constant=np.interp(log_map, np.log2(MAPS), [coefficients[f"map_{size}"] for size in MAPS]),
        without=np.interp(log_map, np.log2(ATTENTION_MAPS), missing),
        half=np.interp(log_map, np.log2(ATTENTION_MAPS[1:3]), HALVES),
    )


def stage_deficits(
    coefficients: Mapping[str, float],
    terms: MapTerms,
    width: Numbers,
    blocks: Numbers,
    attention: Numbers,
    expansion: Numbers,
) -> Floats:
    """Return the deficit of each stage in points at F = 1: the bracket of the law.

    Args:
        coefficients: by name.
        terms: of the stages' map sizes.
        width: w, channels.
        blocks: n, with the part that the entry counts as.
        attention: m, number of attention blocks.
        expansion: e, mean expansion of the blocks.
    """
    # ln(w^a n^b (e / 4)^c): summed as logarithms, one exponential per stage.
    log_size = coefficients["width"] * np.log(width) + coefficients["depth"] * np.log(blocks)
    log_size = log_size + coefficients["expansion"] * np.log(expansion / EXPANSION)
    # The second term halves with every H attention blocks, whatever the width and the depth.
    deficits: Floats = np.exp(terms.constant - log_size) + terms.without * 2.0 ** (
        -attention / terms.half
    )
    return deficits


def log_factor(
    coefficients: Mapping[str, float],
    side: Numbers,
    distilled: Numbers,
    epochs: Numbers,
    pool: Numbers,
    none: Numbers,
) -> Floats:
    """Return ln F of networks (networks,) without ln F_recipe."""
    names = ("resolution", "distilled", "epochs", "pool", "none")
    effects = (np.log(side / SIDE), distilled, np.log(epochs / EPOCHS), pool, none)
    terms = [
        coefficients[name] * np.asarray(effect) for name, effect in zip(names, effects, strict=True)
    ]
    total: Floats = np.sum(terms, axis=0)
    return total


def shortfall(coefficients: Mapping[str, float], features: Features) -> Floats:
    """Return F times the sum of the deficits, (networks,) in points: error without the floor."""
    # An entry that is itself a block counts as a part of one.
    blocks = features.blocks + coefficients["entry"] * features.entry
    terms = map_terms(coefficients, features.map)
    deficits = stage_deficits(
        coefficients, terms, features.width, blocks, features.attention, features.expansion
    )
    # A recipe outside of the fit counts as an average one: the fit's prior of ln F_recipe has the
    # mean 0.
    factor = log_factor(
        coefficients,
        features.side,
        features.distilled,
        features.epochs,
        features.pool,
        features.none,
    ) + np.array([coefficients.get(name, 0.0) for name in features.factor])
    lacking: Floats = np.exp(factor) * deficits.sum(axis=1)
    return lacking


def top1(coefficients: Mapping[str, float], features: Features, floor: float) -> Floats:
    """Return the expected top-1 in percent, (networks,).

    Args:
        coefficients: by name.
        features: of the networks.
        floor: of families that have no floor of their own among the coefficients, in points.
    """
    floors = np.array([coefficients.get(name, floor) for name in features.floor])
    expected: Floats = 100.0 - floors - shortfall(coefficients, features)
    return expected


@dataclass(frozen=True)
class Recipe:
    """A training recipe of a family's networks, which decides their level of accuracy.

    Attributes:
        name: as in the data.
        family: whose floor it shares.
        epochs: passes over ImageNet.
        distilled: whether the networks were trained with a teacher.
    """

    name: str
    family: str
    epochs: float = EPOCHS
    distilled: bool = False

    @property
    def factor_name(self) -> str:
        return f"factor {self.name}"

    @property
    def floor_name(self) -> str:
        return f"floor {self.family}"


@dataclass(frozen=True)
class Published:
    """A published accuracy of a member of a shipped space.

    Attributes:
        top1: in percent.
        source: repository, commit, file and line.
        side: pixels of the input's side.
        predicted: top-1 by a law that was fitted without this network and its variants.
        standard_error: of `predicted`, in points.
        distilled: whether the network was trained with a teacher.
        counterpart: top-1 of the same network by the same authors without a teacher where
            `distilled`, else with one; None where they published none.
    """

    top1: float
    source: str
    side: int
    predicted: float
    standard_error: float
    distilled: bool = False
    counterpart: float | None = None


@dataclass(frozen=True)
class Law:
    """The fitted law.

    Attributes:
        names: of the coefficients: `SHARED`, then factors and floors of the recipes.
        values: of the coefficients, in that order.
        covariance: covariance of the values, (names, names).
        floor: floor of an unknown family, in points.
        floor_error: standard deviation of floors between families, in points.
        factor_error: standard deviation of ln F_recipe between recipes.
        model_share, model_points: error of the form itself, as a share of the shortfall and in
            points.
        recipes: of the shipped spaces, by name.
        published: members with a published accuracy, by name.
        rows: number of published rows that were fitted.
        date: of the fit.
        path: of the file.
    """

    names: tuple[str, ...]
    values: Floats
    covariance: Floats
    floor: float
    floor_error: float
    factor_error: float
    model_share: float
    model_points: float
    recipes: Mapping[str, Recipe]
    published: Mapping[str, Published] = field(default_factory=dict)
    rows: int = 0
    date: str = ""
    path: str = ""

    def __repr__(self) -> str:
        return (
            f"Law({len(self.names)} coefficients fitted to {self.rows} rows,"
            f" {self.date or 'no date'})"
        )

    @cached_property
    def coefficients(self) -> dict[str, float]:
        """Return the values of the coefficients by name."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


FORMAT = "nas-law-1"
SHIPPED = Path(__file__).with_name("law.yaml")

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    distilled: bool = False
    counterpart: Annotated[float, Field(ge=0, le=100)] | None = None


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
        InputError: with file, line, key and reason.
    """
    file = YamlFile(path)
    data = validated(file, _LawFile, file.data)
    names = tuple(data.coefficients)
    for name in SHARED:
        if name not in names:
            raise file.error(
                ["coefficients", name], "is missing. Fix: python benchmarks/accuracy_law.py --write"
            )
    covariance = data.covariance
    if [len(row) for row in covariance] != [len(names)] * len(names):
        reason = f"is not a {len(names)} x {len(names)} matrix, one row per coefficient"
        raise file.error(["covariance"], reason)
    matrix = np.array(covariance)
    # The file has rounded numbers, so that a singular matrix may have eigenvalues just below 0.
    if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix).min() < -1e-6:
        raise file.error(["covariance"], "is not a symmetric positive semidefinite matrix")
    return Law(
        names=names,
        values=np.array(list(data.coefficients.values())),
        covariance=matrix,
        floor=data.floor,
        floor_error=data.floor_error,
        factor_error=data.factor_error,
        model_share=data.model_share,
        model_points=data.model_points,
        recipes={
            name: Recipe(name, each.family, each.epochs, each.distilled)
            for name, each in data.recipes.items()
        },
        published={name: Published(**each.model_dump()) for name, each in data.published.items()},
        rows=data.rows,
        date=data.date,
        path=str(path),
    )


def write_law(law: Law, path: str | Path, **further: Any) -> None:
    """Write the file that `read_law` reads.

    Args:
        law: the law to write.
        path: of the file.
        further: keys for people, which `read_law` ignores.
    """
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
        # Rounded far below the standard errors. This may make the smallest eigenvalue of the
        # covariance slightly negative, which `read_law` allows for.
        "coefficients": {name: float(f"{value:.6g}") for name, value in law.coefficients.items()},
        "recipes": recipes,
        "published": {name: vars(each) for name, each in law.published.items()},
        "covariance": [[float(f"{value:.4g}") for value in row] for row in law.covariance.tolist()],
    }
    write_yaml(Path(path), document)
