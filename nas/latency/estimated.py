"""Estimated latency tables: for phones that nobody measured, from the latencies that papers publish.

    python -m nas.latency.estimated iphone12

reads `latency_tables/iphone12/{estimate.yaml,published.csv,breakdown.csv}`, fits the seven costs of
`nas.latency.cost_model` to the published networks, prices every operation of the named spaces with them, and writes
`table.csv` and `device.yaml` beside. The same files give the same table. All that belongs to one phone is in its
folder; here is the method alone:

1. A network's figure is the median of its published ones whose role is `fit`: of one OS version and all compute units,
   or of sources that do not state the version and agree with those that do.
2. Its layers come from the shipped spaces where it is a member, else from `nas.latency.reference_nets`. Networks that
   are in neither are no evidence: those with squeeze-and-excitation or hard swish, which the sources show to leave the
   Neural Engine at times, and all whose layers nobody listed here.
3. Errors are relative, and every network counts the same. The operator breakdown of a network counts as one figure a
   part, its error taken over the whole network.
4. The error is that of networks left out: the fit is done again without all that is known of one model (then, harder,
   of one family), and predicts it. (The form of the model was chosen in view of the same networks.)
5. A row's p10 and p90 are its median times the tenth and ninetieth percentile of published over predicted latency
   among the models left out. That is the spread of whole networks; a single operation may be further off.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from nas import resources
from nas.errors import NasError
from nas.files import YamlFile
from nas.latency.cost_model import Costs, Observation, fit, price
from nas.latency.coverage import space_operations
from nas.latency.device_info import EstimateInfo, make_device_info
from nas.latency.published import Network, member, published_networks
from nas.latency.rows import Row
from nas.latency.table import LatencyTable, make_table
from nas.space import Operation, load_space

FORMAT = "nas-estimate-1"


@dataclass(frozen=True)
class LeftOut:
    """What the fit says of a network: knowing it, not knowing the model, and not knowing its family; in ms."""

    network: Network
    known: float
    model_unknown: float
    family_unknown: float


def estimate(folder: Path) -> LatencyTable:
    """The estimated table of the phone whose figures are in `folder`.

    Raises:
        InputError: naming the file and line that cannot be used.
    """
    recipe = _recipe(folder / "estimate.yaml")
    date = str(recipe.data["date"])
    networks = published_networks(folder)
    costs = _rounded(fit(_observations(networks)))
    left_out = _leave_out(networks, costs)
    ratios = [entry.network.ms / entry.model_unknown for entry in left_out]
    low, high = (float(np.quantile(ratios, share)) for share in (0.1, 0.9))
    device = make_device_info(
        recipe,
        ["device"],
        recipe.data["device"],
        date=date,
        provenance="estimated",
        intercept_ms=costs.call,
        estimate=EstimateInfo.model_validate(_report(costs, left_out, (low, high))),
        source=f"published figures: {folder.name}/published.csv, {folder.name}/breakdown.csv",
    )
    operations = (operation for name in recipe.data["spaces"] for operation in space_operations(load_space(name)))
    spread = min(low, 1.0), max(high, 1.0)
    return make_table(device, (_row(operation, costs, spread, date) for operation in operations), folder)


def _row(operation: Operation, costs: Costs, spread: tuple[float, float], date: str) -> Row:
    kind, hyperparameters, shape = operation.key
    ms = price(operation.spec.layers(operation.input), costs)
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
        raise file.error(["format"], f"is {file.data.get('format')!r}, expected '{FORMAT}'")
    for key, kind in (("device", dict), ("spaces", list), ("date", datetime.date)):
        if not isinstance(file.data.get(key), kind):
            raise file.error([key], f"expected a {kind.__name__}, found {file.data.get(key)!r}")
    return file


def _observations(networks: Sequence[Network]) -> list[Observation]:
    return [seen for network in networks for seen in network.seen]


def _leave_out(networks: Sequence[Network], costs: Costs) -> list[LeftOut]:
    """Each network predicted by fits that know nothing of its model, and nothing of its family."""
    every = _observations(networks)
    models = {name: fit([seen for seen in every if seen.model != name]) for name in {n.model for n in networks}}
    families = {name: fit([seen for seen in every if seen.family != name]) for name in {n.family for n in networks}}
    return [
        LeftOut(network, *(
            network.seen[0].demand.ms(np.array(astuple(fitted)))
            for fitted in (costs, models[network.model], families[network.family])
        )) for network in networks
    ]  # fmt: skip


def _report(costs: Costs, left_out: Sequence[LeftOut], spread: tuple[float, float]) -> dict[str, Any]:
    """What `device.yaml` says of the fit, under `estimate`."""
    members = [entry for entry in left_out if member(entry.network.model) and entry.network.resolution == 224]
    by_model = _errors(left_out, "model_unknown")
    return {
        "method": "seven physical costs fitted to published networks; made by: python -m nas.latency.estimated DEVICE "
                  "(the same figures give the same table; the method is described in that module)",
        "leave_one_out_mape": by_model["mape"],
        "leave_one_out": by_model,
        "leave_one_out_members": _errors(members, "model_unknown"),
        "leave_one_family_out": _errors(left_out, "family_unknown"),
        "fit": _errors(left_out, "known"),
        "costs_ms": asdict(costs),
        "costs_are": "ms of a call, of 10^9 multiply-accumulates, of 10^6 values (16 bits) moved, of 10^6 values in "
                     "element-wise, layer norm and softmax layers, of a change of layout",
        "percentiles": {"p10": round(spread[0], 4), "p90": round(spread[1], 4)},
        "percentiles_are": "of published over predicted latency of models left out; a row's p10_ms and p90_ms are its "
                           "median times these",
        "networks": [
            {"name": entry.network.name, "published_ms": round(entry.network.ms, 3), "fitted_ms": round(entry.known, 3),
             "left_out_ms": round(entry.model_unknown, 3), "family_left_out_ms": round(entry.family_unknown, 3)}
            for entry in left_out
        ],
    }  # fmt: skip


def _errors(entries: Sequence[LeftOut], which: str) -> dict[str, float]:
    """Mean and largest absolute error in percent, and rank correlation."""
    published = np.array([entry.network.ms for entry in entries])
    predicted = np.array([getattr(entry, which) for entry in entries])
    relative = np.abs(predicted / published - 1) * 100
    return {
        "mape": round(float(relative.mean()), 2),
        "max": round(float(relative.max()), 2),
        "spearman": round(float(spearmanr(published, predicted)[0]), 4),
        "n": len(entries),
    }


def _rounded(costs: Costs) -> Costs:
    """To four digits, so that the last bits of a processor's arithmetic do not show in the table."""
    return Costs(*(float(f"{cost:.4g}") for cost in astuple(costs)))


def main(arguments: Sequence[str]) -> int:
    """`python -m nas.latency.estimated DEVICE`: writes the device's table and says how good it is."""
    if len(arguments) != 1:
        print("usage: python -m nas.latency.estimated DEVICE", file=sys.stderr)
        return 2
    try:
        folder = resources.find("estimate", resources.TABLES, "*/estimate.yaml", arguments[0])
        table = estimate(folder if folder.is_dir() else folder.parent)
        assert table.path is not None
        table.save(table.path)
    except NasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{table.path}: {len(table.rows)} rows, expected error {table.expected_error} %")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
