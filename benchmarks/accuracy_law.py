"""Fit the accuracy law to published networks and print its prediction errors as JSON.

    python benchmarks/accuracy_law.py
        prints the errors in the fit, of networks left out, and of families left out
    python benchmarks/accuracy_law.py --write
        also writes nas/accuracy/law.yaml and the record
    python benchmarks/accuracy_law.py --rows FILE.csv
        predicts the rows of a file with the same columns instead

The data are in `experiments/accuracy-law/published.csv`, one row per published accuracy with its
source. The fit uses rows with four stages whose structure is known and a top-1 of at least 66 %. It
maximises the posterior: normal errors, and priors for what the rows do not determine (`PRIORS`). A
network is left out together with its variants: longer or shorter trainings, other input sizes, and
trainings by others.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import kendalltau

from nas.accuracy.law import (
    MAPS,
    SHARED,
    SHIPPED,
    Features,
    Law,
    Published,
    Recipe,
    shortfall,
    top1,
    write_law,
)
from nas.figures import Figure, Series, layer, series_encoding, x_axis, y_axis
from nas.files import write_text
from nas.space import load_space, published_members, space_names
from nas.versions import versions

Floats = NDArray[np.float64]
FOLDER = Path(__file__).parents[1] / "experiments" / "accuracy-law"
LEAST_TOP1 = 66.0
"""Minimum top-1 in percent; networks below are far smaller than any member of our spaces."""

FLOOR, FLOOR_ERROR, FACTOR_ERROR = 10.0, 2.0, 0.25
"""Prior of a family's floor, in points of error, and of the logarithm of a recipe's factor."""
RECIPE_ERROR = 0.1
"""Standard deviation of ln F of a new recipe of a known family about the family's mean."""
ROW_ERROR, OTHER_ROW_ERROR = 0.5, 0.8
"""Standard error of a row in points, of a member of our spaces and of other networks.

The blocks of the latter differ."""
MODEL_SHARE, MODEL_POINTS = 0.02, 0.2
"""Error of the form: a share of the shortfall, and points (the noise of one training).

They are chosen so that the intervals of networks left out have their nominal coverage."""
WALK = 0.3
"""Standard deviation of the change of ln C(h) per octave below the smallest map at 224 pixels.

No row determines it there, so ln C(h) is a random walk from its value at that map."""
PRIORS: dict[str, tuple[float, float]] = {
    "map_1": (4.9, 9.0), "map_2": (5.0, 9.0), "map_4": (5.05, 9.0), "map_7": (5.0, 9.0), "map_14": (5.2, 9.0),
    "map_28": (3.2, 9.0), "map_56": (2.1, 9.0), "map_112": (1.2, 9.0),
    "width": (0.556, 0.2), "depth": (0.4, 0.2), "expansion": (0.254, 0.2),
    "attention_7": (0.17, 0.7), "attention_14": (-0.7, 0.7), "entry": (0.5, 0.3),
    "resolution": (-0.385, 0.4), "distilled": (-0.106, 0.1), "epochs": (-0.09, 0.1),
    "pool": (0.135, 0.2), "none": (0.316, 0.3),
}  # fmt: skip
"""Mean and standard deviation of the shared coefficients before any row is seen."""


@dataclass(frozen=True)
class Row:
    """One published accuracy.

    Attributes:
        name, family, recipe, source: as in the file.
        group: name shared by the networks of one structure, which are left out together.
        member: whether it is a member of a shipped space.
        side: pixels of the input's side.
        top1: in percent.
        stages: width, blocks, attention blocks and mean expansion, each with four values.
    """

    name: str
    family: str
    recipe: str
    source: str
    kind: str
    group: str
    member: bool
    side: float
    epochs: float
    distilled: bool
    mixer: str
    entry: float
    top1: float
    stages: tuple[tuple[float, ...], ...]


def read(path: Path, least_top1: float = LEAST_TOP1) -> list[Row]:
    """Return the rows that the law can express."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for record in csv.DictReader(file) for row in _row(record)]
    rows = [row for row in rows if row.top1 >= least_top1]
    variant_of = {row.name: row.group for row in rows}
    by_structure: dict[tuple[Any, ...], str] = {}
    grouped = []
    for row in rows:
        # Follow variants of variants to the first network; `seen` guards against a cycle in the file.
        name = row.name
        seen = set[str]()
        while variant_of.get(name, name) != name and name not in seen:
            seen.add(name)
            name = variant_of[name]
        # Rows of one structure share a group whatever the file says: width, blocks and attention.
        structure = row.family, row.stages[:3]
        grouped.append(
            replace(row, group=by_structure.setdefault(structure, name.partition("@")[0]))
        )
    return grouped


def _row(record: dict[str, str]) -> Iterator[Row]:
    if record["expressible"] == "no" or not record["widths"]:
        return
    widths, blocks, attention = (
        tuple(map(float, (record[key] or "0-0-0-0").split("-")))
        for key in ("widths", "depths", "attention")
    )
    expansion = _expansions(record["expansion"])
    if len(widths) != 4 or min(blocks) <= 0 or expansion is None:
        return
    epochs = float(record["epochs"]) if re.fullmatch(r"[\d.]+", record["epochs"]) else 300.0
    mixer = record["token_mixer"]
    pooled = (
        "pool"
        if mixer.startswith("pool")
        else "none"
        if mixer == "none" or mixer.startswith("identity")
        else ""
    )
    yield Row(
        name=record["model"],
        family=record["family"],
        recipe=record["recipe"],
        source=record["source"],
        kind=record["kind"],
        group=record["variant_of"] or record["model"],
        member=record["expressible"] == "yes",
        side=float(record["resolution"]),
        epochs=epochs,
        distilled=record["distilled"] not in ("", "0"),
        mixer=pooled,
        entry=float(record["entry"] or 0),
        top1=float(record["top1"]),
        stages=(widths, blocks, attention, expansion),
    )


def _expansions(text: str) -> tuple[float, ...] | None:
    """Return the mean expansion of each stage; None where the text does not say it."""
    parts = text.split("/") if text.count("/") == 3 else [text] * 4
    means = []
    for part in parts:
        values = []
        for value in part.replace(" gated", "").split(","):
            ratio = re.fullmatch(r"\s*(\d*\.?\d+)(?:/(\d*\.?\d+))?\s*", value)
            if ratio is None:
                return None
            values.append(float(ratio[1]) / float(ratio[2] or 1))
        means.append(sum(values) / len(values))
    return tuple(means)


def features(rows: Sequence[Row]) -> Features:
    """Return the features of the rows that the law uses."""
    width, blocks, attention, expansion = (
        np.array(each) for each in zip(*(row.stages for row in rows), strict=True)
    )
    side = np.array([row.side for row in rows])
    return Features(
        width=width,
        blocks=blocks,
        attention=attention,
        expansion=expansion,
        map=side[:, None] / np.array([4.0, 8.0, 16.0, 32.0]),
        entry=np.array([[row.entry] for row in rows]),
        side=side,
        distilled=np.array([float(row.distilled) for row in rows]),
        epochs=np.array([row.epochs for row in rows]),
        pool=np.array([float(row.mixer == "pool") for row in rows]),
        none=np.array([float(row.mixer == "none") for row in rows]),
        factor=tuple(f"factor {row.recipe}" for row in rows),
        floor=tuple(f"floor {row.family}" for row in rows),
    )


@dataclass(frozen=True)
class Fit:
    """The coefficients, by `names`, with their covariance; `recipes` lists each family's recipes."""

    names: tuple[str, ...]
    values: Floats
    covariance: Floats
    recipes: dict[str, list[str]]

    def predict(self, rows: Sequence[Row]) -> tuple[Floats, Floats]:
        """Return the expected top-1 of rows and its standard error, both (rows,)."""
        # A new recipe of a known family gets the mean factor of the family's recipes, and one of a
        # new family the prior's. How far such factors spread is a further error.
        seen = features(rows)
        known = dict(zip(self.names, self.values, strict=True))
        spreads = np.zeros(len(rows))
        for index, row in enumerate(rows):
            name = f"factor {row.recipe}"
            if name in self.names:
                continue
            others = [known[f"factor {recipe}"] for recipe in self.recipes.get(row.family, [])]
            known[name] = float(np.mean(others)) if others else 0.0
            spreads[index] = RECIPE_ERROR if others else FACTOR_ERROR
        expected = top1(known, seen, FLOOR)
        lacking = shortfall(known, seen)
        gradients = _gradients(known, self.names, seen)
        variance = np.einsum("ri,ij,rj->r", gradients, self.covariance, gradients)
        new_floor = np.array([name not in self.names for name in seen.floor])
        variance += (spreads * lacking) ** 2 + (new_floor * FLOOR_ERROR) ** 2
        variance += (MODEL_SHARE * lacking) ** 2 + MODEL_POINTS**2
        return expected, np.sqrt(variance)


def _gradients(known: dict[str, float], names: Sequence[str], seen: Features) -> Floats:
    """Return the derivatives of the expected top-1 by the named coefficients, (rows, names).

    They are central differences.
    """
    step = 1e-4
    columns = []
    for name in names:
        above, below = (
            top1({**known, name: known[name] + sign * step}, seen, FLOOR) for sign in (1.0, -1.0)
        )
        columns.append((above - below) / (2 * step))
    return np.array(columns).T


def fit(rows: Sequence[Row], start: Fit | None = None) -> Fit:
    """Return the coefficients that maximise the posterior, with their Laplace covariance.

    Args:
        rows: to fit.
        start: a fit to begin from, which saves iterations.
    """
    recipe_names = sorted({row.recipe for row in rows})
    families = sorted({row.family for row in rows})
    names = (
        *SHARED,
        *(f"factor {name}" for name in recipe_names),
        *(f"floor {name}" for name in families),
    )
    means = (
        [PRIORS[name][0] for name in SHARED] + [0.0] * len(recipe_names) + [FLOOR] * len(families)
    )
    spreads = (
        [PRIORS[name][1] for name in SHARED]
        + [FACTOR_ERROR] * len(recipe_names)
        + [FLOOR_ERROR] * len(families)
    )
    before = np.array(means)
    spread = np.array(spreads)
    seen = features(rows)
    figures = np.array([row.top1 for row in rows])
    errors = np.array([ROW_ERROR if row.member else OTHER_ROW_ERROR for row in rows])

    def residuals(values: Floats) -> Floats:
        off = (top1(dict(zip(names, values, strict=True)), seen, FLOOR) - figures) / errors
        constants = values[: len(MAPS)]
        # Below maps of 7 pixels ln C(h) is a random walk. Above, a prior on its curvature (second
        # differences) holds it near a straight line.
        walk = np.diff(constants[:4]) / WALK
        curvature = np.diff(constants[3:], 2)
        return np.concatenate(
            [off, (values - before) / spread, walk, curvature, [constants[3] - before[3]]]
        )

    known = dict(zip(start.names, start.values, strict=True)) if start else {}
    first = np.array([known.get(name, mean) for name, mean in zip(names, before, strict=True)])
    # Residuals in units of their standard deviations: half the sum of squares is the negative log
    # posterior, and J^T J at the minimum is the inverse of the Laplace covariance.
    found = least_squares(residuals, first)
    by_family: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_family[row.family].add(row.recipe)
    recipes = {family: sorted(own) for family, own in by_family.items()}
    return Fit(names, found.x, np.linalg.inv(found.jac.T @ found.jac), recipes)


def leave_out(rows: Sequence[Row], whole: Fit, key: str) -> tuple[Floats, Floats]:
    """Return each row's prediction by a fit without its group or family, and the standard error."""
    expected = np.zeros(len(rows))
    errors = np.zeros(len(rows))
    labels = np.array([getattr(row, key) for row in rows])
    for label in sorted(set(labels.tolist())):
        # From the fit to all rows, which is near, a few iterations suffice.
        rest = fit([row for row, own in zip(rows, labels, strict=True) if own != label], whole)
        out = np.flatnonzero(labels == label)
        expected[out], errors[out] = rest.predict([rows[index] for index in out])
    return expected, errors


def members(rows: Sequence[Row]) -> dict[str, int]:
    """Return the row of each published member of a shipped space, by name.

    It is the row of the authors' own figure at the published size.
    """
    known = published_members()
    found: dict[str, int] = {}
    for index, row in enumerate(rows):
        name = _member_name(row.name, known)
        if row.member and name and name not in found and row.side == known[name].resolution[0]:
            found[name] = index
    return found


def _member_name(model: str, known: Collection[str]) -> str:
    """Return the member that a row names; "" where there is none.

    A dot is part of a name (RepViT-M0.9), or what follows it names a training of timm's.
    """
    plain = model.partition("@")[0].lower().replace("-", "_")
    names = (plain.replace(".", "_"), plain.partition(".")[0])
    return next((name for name in names if name in known), "")


def counterpart(row: Row, rows: Sequence[Row]) -> float | None:
    """Return the top-1 of the same network by its authors with a teacher where the row has none.

    Where it has one, without. Return None where they published no such figure.
    """
    alike = (
        other.top1
        for other in rows
        if (other.kind, other.stages, other.side, other.epochs, other.recipe)
        == (row.kind, row.stages, row.side, row.epochs, row.recipe)
        and other.distilled != row.distilled
    )
    return next(alike, None)


def _summary(
    rows: Sequence[Row], expected: Floats, errors: Floats, chosen: Sequence[int]
) -> dict[str, Any]:
    """Return errors of the chosen rows: mean, largest, coverage of the 95 % interval, and tau.

    Tau is Kendall's, within each family.
    """
    off = np.array([expected[i] - rows[i].top1 for i in chosen])
    inside = np.abs(off) < 1.96 * errors[list(chosen)]
    by_family: dict[str, list[int]] = defaultdict(list)
    for index in chosen:
        by_family[rows[index].family].append(index)
    taus = {
        family: round(
            float(kendalltau([expected[i] for i in at], [rows[i].top1 for i in at])[0]), 3
        )
        for family, at in by_family.items()
        if len(at) > 2
    }
    return {
        "rows": len(chosen),
        "mean_error": round(float(np.abs(off).mean()), 3),
        "largest_error": round(float(np.abs(off).max()), 3),
        "bias": round(float(off.mean()), 3),
        "inside_95_percent": round(100 * float(inside.mean()), 1),
        "mean_standard_error": round(float(errors[list(chosen)].mean()), 3),
        "kendall_tau_by_family": taus,
        "kendall_tau_mean": round(float(np.mean(list(taus.values()))), 3) if taus else None,
    }


def law(
    whole: Fit, rows: Sequence[Row], chosen: dict[str, int], expected: Floats, errors: Floats
) -> Law:
    """Return the law with the recipes that shipped spaces name."""
    names = {name for space in space_names() for name in load_space(space).recipes.values()}
    recipes = {row.recipe: row for row in rows if row.recipe in names}
    # Coefficients of other families are marginalised out by leaving out their rows and columns.
    kept = [
        index
        for index, name in enumerate(whole.names)
        if name in SHARED
        or name.removeprefix("factor ") in recipes
        or name.removeprefix("floor ") in {row.family for row in recipes.values()}
    ]
    first = {row.recipe: row for row in reversed(rows)}
    return Law(
        names=tuple(whole.names[i] for i in kept),
        values=whole.values[kept],
        covariance=whole.covariance[np.ix_(kept, kept)],
        floor=FLOOR,
        floor_error=FLOOR_ERROR,
        factor_error=FACTOR_ERROR,
        model_share=MODEL_SHARE,
        model_points=MODEL_POINTS,
        recipes={
            n: Recipe(n, first[n].family, first[n].epochs, first[n].distilled)
            for n in sorted(recipes)
        },
        published={
            name: Published(
                rows[i].top1,
                rows[i].source,
                int(rows[i].side),
                round(float(expected[i]), 2),
                round(float(errors[i]), 2),
                rows[i].distilled,
                counterpart(rows[i], rows),
            )
            for name, i in chosen.items()
        },
        rows=len(rows),
        date=datetime.date.today().isoformat(),
    )


def draw(rows: Sequence[Row], expected: Floats, errors: Floats, path: Path) -> None:
    """Draw predicted against published top-1 of networks left out."""
    x = x_axis("published top-1 (%)", scale={"domain": [65, 88], "zero": False})
    y = y_axis(
        "predicted without the network and its variants (%)",
        scale={"domain": [65, 88], "zero": False},
    )
    points = [
        {
            "x": row.top1,
            "y": float(value),
            "low": float(value - 1.96 * error),
            "high": float(value + 1.96 * error),
            "series": "own" if row.member else "other",
        }
        for row, value, error in zip(rows, expected, errors, strict=True)
    ]
    own = [point for point in points if point["series"] == "own"]
    names = {
        "other": f"other networks ({len(points) - len(own)} rows)",
        "own": f"members of our spaces ({len(own)} rows), 95 % interval",
    }
    rows_shown = [{**point, "series": names[point["series"]]} for point in points]
    channels = series_encoding([Series(names["other"], "#8a8f98"), Series(names["own"], "#2f86c6")])
    ends = [{"x": end, "y": end} for end in (65, 88)]
    layers = [
        layer({"type": "line", "stroke": "#8a8f98", "strokeWidth": 1}, ends, x=x, y=y),
        layer(
            {"type": "rule", "stroke": "#2f86c6"},
            own,
            x=x,
            y={**y, "field": "low"},
            y2={"field": "high"},
        ),
        layer({"type": "point", "size": 16, "opacity": 1}, rows_shown, x=x, y=y, **channels),
    ]
    Figure("Accuracy law: every network left out", {"height": 640, "layer": layers}).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write nas/accuracy/law.yaml and experiments/accuracy-law",
    )
    parser.add_argument(
        "--rows",
        type=Path,
        help="predict these rows by a fit to ours; none of them may be among ours",
    )
    arguments = parser.parse_args()
    rows = read(FOLDER / "published.csv")
    whole = fit(rows)
    if arguments.rows:
        _predict(whole, arguments.rows)
        return
    everywhere = list(range(len(rows)))
    chosen = members(rows)
    own = list(chosen.values())
    fitted, fitted_errors = whole.predict(rows)
    expected, errors = leave_out(rows, whole, "group")
    unknown, unknown_errors = leave_out(rows, whole, "family")
    result = {
        "fitted_rows": len(rows),
        "families": len({row.family for row in rows}),
        "published_members": {
            "in_the_fit": _summary(rows, fitted, fitted_errors, own),
            "network_left_out": _summary(rows, expected, errors, own),
            "family_left_out": _summary(rows, unknown, unknown_errors, own),
        },
        "all_rows": {
            "in_the_fit": _summary(rows, fitted, fitted_errors, everywhere),
            "network_left_out": _summary(rows, expected, errors, everywhere),
            "family_left_out": _summary(rows, unknown, unknown_errors, everywhere),
        },
        "members": {
            name: {
                "published": rows[i].top1,
                "fitted": round(float(fitted[i]), 2),
                "left_out": round(float(expected[i]), 2),
                "standard_error": round(float(errors[i]), 2),
            }
            for name, i in chosen.items()
        },
        "coefficients": {
            name: [round(float(value), 4), round(math.sqrt(whole.covariance[i, i]), 4)]
            for i, (name, value) in enumerate(zip(whole.names, whole.values, strict=True))
            if name in SHARED
        },
        "versions": versions("scipy"),
    }
    print(json.dumps(result, indent=2))
    if arguments.write:
        command = "python benchmarks/accuracy_law.py --write"
        write_law(
            law(whole, rows, chosen, expected, errors),
            SHIPPED,
            made_by=command,
            data=str(FOLDER.name),
        )
        write_text(FOLDER / "result.json", json.dumps(result, indent=2) + "\n")
        write_text(FOLDER / "residuals.csv", _residuals(rows, fitted, expected, errors, unknown))
        draw(rows, expected, errors, FOLDER / "left_out.png")


def _predict(whole: Fit, path: Path) -> None:
    rows = read(path, least_top1=0.0)
    with path.open(newline="", encoding="utf-8-sig") as file:
        given = [record["model"] for record in csv.DictReader(file)]
    expected, errors = whole.predict(rows)
    print(
        json.dumps(
            {
                **_summary(rows, expected, errors, range(len(rows))),
                "not_expressible": sorted(set(given) - {row.name for row in rows}),
                "predictions": [
                    {
                        "model": row.name,
                        "published": row.top1,
                        "predicted": round(float(value), 2),
                        "standard_error": round(float(error), 2),
                        "recipe_known": f"factor {row.recipe}" in whole.names,
                    }
                    for row, value, error in zip(rows, expected, errors, strict=True)
                ],
            },
            indent=2,
        )
    )


def _residuals(
    rows: Sequence[Row], fitted: Floats, expected: Floats, errors: Floats, unknown: Floats
) -> str:
    lines = ["model,family,member,top1,fitted,network_left_out,standard_error,family_left_out"]
    for row, *values in zip(rows, fitted, expected, errors, unknown, strict=True):
        figures = ",".join(f"{value:.2f}" for value in values)
        lines.append(
            f'"{row.name}",{row.family},{"yes" if row.member else "no"},{row.top1},{figures}'
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
