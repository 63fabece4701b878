"""Make estimated latency tables, for phones that nobody measured, from published latencies.

    python -m nas.latency.estimate.run iphone12 [DEVICE ...]

reads `latency_tables/iphone12/{estimate.yaml,published.csv,breakdown.csv}`, fits the twelve costs
of `nas.latency.cost_model` to the published networks, prices every operation of the named spaces
with them, and writes `table.csv` and `device.yaml` beside. The same files give the same table. The
folder holds everything about one phone; this file holds the method:

1. A network's figure is the median of its published ones whose role is `fit`. These are of one OS
   version and all compute units, or of sources that do not state the version and agree with those
   that do. The other figures name the reason why they are not fitted.
2. Its layers come from the shipped spaces where it is a member, else from `layer_lists.csv` beside
   this file. Networks in neither are not used, nor are those which the sources show to leave the
   Neural Engine.
3. Errors are relative, and every network counts the same. The operator breakdown of a network
   counts as one figure per part, with errors relative to the whole network.
4. Where figures say little, the fit is held near a prior: the costs fitted to another phone of this
   kind, or rough numbers in `estimate.yaml`. `trust` there is the weight of the prior.
5. The error is that of networks left out. The fit is repeated without all figures of one model
   (then, harder, of one family), here and on the phone that the prior is from, and predicts that
   model. The form of the cost model was chosen in view of the same networks. Families whose role
   is `held_out` are never fitted on this phone (their error is the entry `held_out`).
6. A network whose error when left out is far beyond the others' is named as an outlier. An outlier
   is first of all a figure to read again (its input size, its unit, its device).
7. Operations without a row are priced with the same costs. At the sizes that were fitted their
   error is that of the rows. At dense sizes it is that of published segmentation networks (role
   `check`), of this phone or of the one that `dense` names.
8. A row's p10 and p90 are its median times the 10th and 90th percentile of published over predicted
   latency among the models left out. That is the spread of whole networks; a single operation may
   be further off.
"""

from __future__ import annotations

import datetime
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from nas import resources
from nas.blocks import Operation
from nas.devices.info import (
    Costs,
    EstimateInfo,
    load_device_info,
    make_device_info,
    optional_costs,
)
from nas.errors import NasError
from nas.files import YamlFile
from nas.latency.cost_model import Floats, price
from nas.latency.estimate.fit import fit
from nas.latency.estimate.published_latencies import (
    Dense,
    Network,
    dense_networks,
    published_networks,
)
from nas.latency.rows import Row
from nas.latency.table import LatencyTable, make_table
from nas.space import load_space, published_member
from nas.space.operations import space_operations

FORMAT = "nas-estimate-1"
WORDS = {False: "twelve physical costs", True: "physical costs (twelve, and further ones)"}
"""The costs of a phone in words, by whether it has further ones."""
FURTHER = (
    "; on top, of 10^9 multiply-accumulates in depthwise convolutions and of 10^6 activations that"
    " these move, of the same in products of attention, of 10^6 activations of a layer beyond its"
    " first 10^6, of 10^6 activations in a transpose and in a concatenation or gather, of a layer"
    " over one position, of 10^6 activations that a layer which multiplies reads"
)
OUTLIER_SIGMAS = 3.0
"""Distance of an outlier in robust standard deviations (1.4826 median absolute deviations)."""


@dataclass(frozen=True)
class LeftOut:
    """Latencies in ms predicted for a network by three fits.

    Attributes:
        network: the published network.
        known: by the fit to all networks.
        model_unknown: by the fit without its model.
        family_unknown: by the fit without its family.
    """

    network: Network
    known: float
    model_unknown: float
    family_unknown: float


@dataclass(frozen=True)
class Phone:
    """A phone that is estimated.

    Attributes:
        recipe: `estimate.yaml`.
        networks: published networks that are fitted.
        prior: the presumed costs, or the phone whose fitted costs they are.
        dense: published segmentation networks.
        held_out: networks of families that are never fitted.
    """

    recipe: YamlFile
    networks: tuple[Network, ...]
    prior: Phone | Costs
    dense: tuple[Dense, ...] = ()
    held_out: tuple[Network, ...] = ()

    def costs(self, model: str = "", family: str = "") -> Costs:
        """Return the costs fitted to all networks but those of one model or one family."""
        # The prior is fitted without them too: otherwise their figures on the other phone would
        # leak into the error of networks left out.
        prior = self.prior.costs(model, family) if isinstance(self.prior, Phone) else self.prior
        seen = (one for network in self.networks for one in network.seen)
        known = [one for one in seen if one.model != model and one.family != family]
        # Arithmetic of another precision is faster all over: `prior_scale` says by how much.
        scale = float(self.recipe.data.get("prior_scale", 1.0))
        scaled = Costs(*(scale * cost for cost in astuple(prior)))
        return fit(known, scaled, self.recipe.data["trust"])


def read_phone(folder: Path) -> Phone:
    """Return the phone whose figures are in `folder`.

    Raises:
        InputError: naming the file and line that cannot be used.
    """
    recipe = _recipe(folder / "estimate.yaml")
    return Phone(
        recipe,
        tuple(published_networks(folder)),
        _prior(recipe, folder),
        tuple(dense_networks(folder)),
        tuple(published_networks(folder, "held_out")),
    )


def estimate(folder: Path) -> LatencyTable:
    """Return the estimated table of the phone whose figures are in `folder`.

    Raises:
        InputError: naming the file and line that cannot be used.
    """
    phone = read_phone(folder)
    recipe = phone.recipe
    date = str(phone.recipe.data["date"])
    # The costs are rounded before they price anything, so that rows are made with the costs that
    # `device.yaml` states.
    costs = _rounded(phone.costs())
    left_out = leave_out(phone, costs)
    # The spread of rows (step 8): published over predicted latency of models left out.
    ratios = [entry.network.ms / entry.model_unknown for entry in left_out]
    low, high = (float(np.quantile(ratios, share)) for share in (0.1, 0.9))
    report = _report(phone, costs, left_out, (low, high))
    report |= {"outliers": outliers(left_out)} | _dense_report(
        phone, costs, folder, report["leave_one_out_mape"]
    )
    # What the precision costs in accuracy is a published fact; nothing is fitted to it.
    if "accuracy_cost" in recipe.data:
        report["accuracy_cost"] = str(recipe.data["accuracy_cost"])
    figures = ", ".join(
        f"{folder.name}/{path.name}" for path in sorted(folder.glob("[bp]*.csv"), reverse=True)
    )
    device = make_device_info(
        recipe,
        ["device"],
        recipe.data["device"],
        date=date,
        provenance="estimated",
        intercept_ms=costs.call,
        estimate=EstimateInfo.model_validate(report),
        source=f"published figures: {figures}",
    )
    operations = (
        operation
        for name in recipe.data["spaces"]
        for operation in space_operations(load_space(name))
    )
    # A row's p10 and p90 enclose its median, also where all networks are off to one side.
    spread = min(low, 1.0), max(high, 1.0)
    return make_table(
        device, (_row(operation, costs, spread, date) for operation in operations), folder
    )


def _row(operation: Operation, costs: Costs, spread: tuple[float, float], date: str) -> Row:
    kind, hyperparameters, shape = operation.key
    ms = price(operation.spec.deployed_layers(operation.input), costs)
    return Row(
        kind=kind,
        hyperparameters=hyperparameters,
        input=shape,
        output=str(operation.output),
        median_ms=round(ms, 6),
        p10_ms=round(ms * spread[0], 6),
        p90_ms=round(ms * spread[1], 6),
        runs=0,
        provenance="estimated",
        date=date,
    )


def _recipe(path: Path) -> YamlFile:
    file = YamlFile(path)
    if file.data.get("format") != FORMAT:
        raise file.error(
            ["format"],
            f"is not an estimate's recipe (got {file.data.get('format')!r}, expected '{FORMAT}')",
        )
    for key, kind, expected in (
        ("device", dict, "keys and values"),
        ("spaces", list, "a list"),
        ("date", datetime.date, "a date"),
        ("prior", dict | str, "a device or costs"),
        ("trust", float, "a number as 0.1"),
    ):
        if not isinstance(file.data.get(key), kind):
            raise file.error([key], f"expected {expected} (got {file.data.get(key)!r})")
    return file


def _prior(recipe: YamlFile, folder: Path) -> Phone | Costs:
    prior = recipe.data["prior"]
    if isinstance(prior, str):
        other = folder.parent / prior
        if other == folder or not (other / "estimate.yaml").is_file():
            raise recipe.error(
                ["prior"], f"no other device '{prior}' is estimated in {folder.parent}"
            )
        return read_phone(other)
    known = [field.name for field in fields(Costs)]
    needed = [name for name in known if name not in optional_costs()]
    for name in [*needed, *prior]:
        if name not in known or not isinstance(prior.get(name), float | int) or not prior[name] > 0:
            raise recipe.error(
                ["prior"], f"{name}: expected the costs {', '.join(known)}, each a positive number"
            )
    return Costs(**{name: float(cost) for name, cost in prior.items()})


def leave_out(phone: Phone, costs: Costs) -> list[LeftOut]:
    """Return each network's predictions by fits with it, without its model and without its family.

    Args:
        costs: of the fit to all networks.
    """
    # Without a model, not a figure: its other resolutions would tell nearly the same.
    models = {
        name: phone.costs(model=name) for name in {network.model for network in phone.networks}
    }
    families = {
        name: phone.costs(family=name) for name in {network.family for network in phone.networks}
    }
    return [
        LeftOut(
            network,
            *(
                network.seen[0].demand.ms(np.array(astuple(fitted)))
                for fitted in (costs, models[network.model], families[network.family])
            ),
        )
        for network in phone.networks
    ]


def outliers(left_out: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Return the networks whose error when left out is far from the others', with it in percent.

    Ratios are compared as logarithms, so that twice and half the published figure are equally far
    off. Median and median absolute deviation are not moved by the outliers themselves.
    """
    ratios = np.log([entry.model_unknown / entry.network.ms for entry in left_out])
    distances = np.abs(ratios - np.median(ratios))
    # 1.4826 median absolute deviations are one standard deviation of a normal distribution.
    sigma = 1.4826 * float(np.median(distances))
    return [
        {
            "name": entry.network.name,
            "error": round(100 * (entry.model_unknown / entry.network.ms - 1), 1),
        }
        for entry, distance in zip(left_out, distances, strict=True)
        if distance > OUTLIER_SIGMAS * sigma
    ]


def dense_errors(networks: Sequence[Dense], costs: Costs) -> dict[str, Any]:
    """Return the errors of these costs in percent on segmentation networks, and each one's ms."""
    entries = [
        {
            "name": network.name,
            "published_ms": network.ms,
            "predicted_ms": round(_whole_ms(network, costs), 3),
        }
        for network in networks
    ]
    published = np.array([entry["published_ms"] for entry in entries])
    predicted = np.array([entry["predicted_ms"] for entry in entries])
    return _statistics(published, predicted) | {"networks": entries}


def _whole_ms(network: Dense, costs: Costs) -> float:
    layers = (
        layer for op in network.arch.operations() for layer in op.spec.deployed_layers(op.input)
    )
    return costs.call + price(layers, costs)


def _dense_report(phone: Phone, costs: Costs, folder: Path, left_out_mape: float) -> dict[str, Any]:
    """Return the entries of `device.yaml` about dense sizes.

    `extra` is the error in percent beyond that of networks left out. Errors of different causes add
    up in squares, so it is the root of the difference of squares.
    """
    sizes = {"largest_resolution": max(network.resolution for network in phone.networks)}
    if phone.dense:
        errors = dense_errors(phone.dense, costs)
        extra = sqrt(max(errors["mape"] ** 2 - left_out_mape**2, 0.0))
        return sizes | {"dense": {"extra": round(extra, 2)} | errors}
    other = phone.recipe.data.get("dense")
    if other is None:
        return sizes
    path = folder.parent / str(other)
    if not (path / "device.yaml").is_file():
        raise phone.recipe.error(
            ["dense"], f"'{other}' is not an estimated device of {folder.parent}"
        )
    info = load_device_info(path / "device.yaml").estimate
    extra = info.priced_error((0, 0), dense=True) if info else 0.0
    if not extra:
        raise phone.recipe.error(["dense"], f"'{other}' has no published segmentation networks")
    return sizes | {"dense": {"extra": extra, "from": str(other)}}


def _report(
    phone: Phone, costs: Costs, left_out: Sequence[LeftOut], spread: tuple[float, float]
) -> dict[str, Any]:
    """Return the entry `estimate` of `device.yaml`, which describes the fit."""
    members = [
        entry
        for entry in left_out
        if published_member(entry.network.model) and entry.network.resolution == 224
    ]
    by_model = _errors(left_out, "model_unknown")
    return {
        "method": (
            f"{WORDS[bool(costs.depthwise)]} fitted to published networks; made by: python -m"
            " nas.latency.estimate.run DEVICE (the same figures give the same table; the method is"
            " described in that module)"
        ),
        "prior": phone.recipe.data["prior"],
        "trust": phone.recipe.data["trust"],
        "leave_one_out_mape": by_model["mape"],
        "leave_one_out": by_model,
        # Where no member of a shipped space was published, there is no error of members.
        **({"leave_one_out_members": _errors(members, "model_unknown")} if members else {}),
        **({"leave_one_family_out_members": _errors(members, "family_unknown")} if members else {}),
        "leave_one_family_out": _errors(left_out, "family_unknown"),
        "fit": _errors(left_out, "known"),
        **({"held_out": _held_out(phone, costs)} if phone.held_out else {}),
        "costs_ms": costs.to_dict(),
        "costs_are": (
            "ms of a call, of 10^9 multiply-accumulates, of 10^6 weights read, of 10^6 activations"
            " written (in pooling: moved), of starting a layer, of 10^6 values in element-wise, layer"
            " norm and softmax layers, of a change of layout, of 10^6 values in GELU and SiLU, of"
            " 10^9 multiply-accumulates in the products of linear attention"
            + (FURTHER if costs.depthwise else "")
        ),
        "percentiles": {"p10": round(spread[0], 4), "p90": round(spread[1], 4)},
        "percentiles_are": (
            "of published over predicted latency of models left out; a row's p10_ms and p90_ms are"
            " its median times these"
        ),
        "networks": [
            {
                "name": entry.network.name,
                "published_ms": round(entry.network.ms, 3),
                "fitted_ms": round(entry.known, 3),
                "left_out_ms": round(entry.model_unknown, 3),
                "family_left_out_ms": round(entry.family_unknown, 3),
            }
            for entry in left_out
        ],
    }


def _errors(entries: Sequence[LeftOut], which: str) -> dict[str, float]:
    """Return the statistics of one prediction of `LeftOut`, named `which`."""
    published = np.array([entry.network.ms for entry in entries])
    predicted = np.array([getattr(entry, which) for entry in entries])
    return _statistics(published, predicted)


def _held_out(phone: Phone, costs: Costs) -> dict[str, Any]:
    """Return the statistics of each family that this phone's fit does not know, by family."""
    vector = np.array(astuple(costs))
    families: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for network in phone.held_out:
        families[network.family].append((network.ms, network.seen[0].demand.ms(vector)))
    return {family: _statistics(*np.array(pairs).T) for family, pairs in families.items()}


def _statistics(published: Floats, predicted: Floats) -> dict[str, Any]:
    """Return mean and largest absolute error in percent, rank correlation, and their number."""
    relative = np.abs(predicted / published - 1) * 100
    return {
        "mape": round(float(relative.mean()), 2),
        "max": round(float(relative.max()), 2),
        "spearman": round(float(spearmanr(published, predicted)[0]), 4),
        "n": len(published),
    }


def _rounded(costs: Costs) -> Costs:
    """Return the costs to four digits, without the last bits of a processor's arithmetic."""
    return Costs(*(float(f"{cost:.4g}") for cost in astuple(costs)))


def _findings(table: LatencyTable) -> Iterator[str]:
    """Yield lines about outliers and about the error at dense sizes."""
    estimate = table.device.estimate
    more = (estimate.model_extra if estimate else None) or {}
    for outlier in more["outliers"]:
        yield f"outlier: {outlier['name']}, {outlier['error']:+.1f} % when left out"
    if more["outliers"]:
        yield (
            "An outlier is first of all a figure to read again: its input size, its unit, its"
            " device."
        )
    dense = more.get("dense", {})
    if "mape" in dense:
        yield (
            f"dense sizes: mean error {dense['mape']} % on {dense['n']} published segmentation"
            " networks"
        )


def main(arguments: Sequence[str]) -> int:
    """Write the devices' tables and print their errors; return the exit code."""
    if not arguments:
        print("usage: python -m nas.latency.estimate.run DEVICE ...", file=sys.stderr)
        return 2
    try:
        for name in arguments:
            folder = resources.find("estimate", resources.TABLES, "*/estimate.yaml", name)
            table = estimate(folder if folder.is_dir() else folder.parent)
            assert table.path is not None
            table.save(table.path)
            print(f"{table.path}: {len(table.rows)} rows, expected error {table.expected_error} %")
            for line in _findings(table):
                print(f"  {line}")
    except NasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
