"""A benchmark of rankings: networks trained alone, and how well scores rank them. Prints JSON.

    python benchmarks/ranking.py train     --keep FOLDER --data DATA     train members alone
    python benchmarks/ranking.py supernets --keep FOLDER --data DATA     train, and evaluate members
    python benchmarks/ranking.py proxies   --keep FOLDER --data DATA     zero-cost proxies
    python benchmarks/ranking.py latency   --keep FOLDER                 measure on this computer
    python benchmarks/ranking.py summarise --keep FOLDER                 all taus, and members.csv
    python benchmarks/ranking.py score MEMBERS.CSV --scores SCORES       tau of your own scores

Members are drawn at random from small spaces for 32x32 images, one per family, evenly over the range
of MACs. Each is trained alone from random weights by one recipe, some with several seeds. All
accuracies are on the same held-out images. Every step adds to journals in FOLDER after each result,
so that the same command resumes, and more members, seeds or supernets can be added later.

`score` needs no images: MEMBERS.CSV holds architectures and accuracies. SCORES is `law` (the accuracy
law of the family's space), a column of MEMBERS.CSV, a file with the columns member and score, or
whatever `nas.load_scores` reads (scores of a supernet, or of a search).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ranking_members import (
    LATENCIES,
    MEMBERS,
    SCORES,
    TRAININGS,
    Member,
    accuracies,
    add,
    begin,
    by_family,
    evenly,
    keep_protocol,
    latencies,
    protocol_of,
    read_members,
    scores,
    write_members,
)
from ranking_posterior import law_costs, posterior_scores
from ranking_statistics import ceiling, noise, tau

import nas
from nas.accuracy.evaluations import member_key
from nas.data import Splits, load_data
from nas.errors import InputError, NasError
from nas.finetune.options import Recipe
from nas.journals import read_entries
from nas.versions import versions

SPACES = Path(__file__).parent / "spaces"
FAMILIES = ("swiftformer", "efficientformer")
"""The second family was added after the law and its correction were settled, as an untouched test."""
SIDE = 32
SUPERNETS: Mapping[str, Mapping[str, Any]] = {
    "half": {"narrow": 0.5},
    "plain": {"narrow": 0.0},
    "narrow": {"narrow": 1.0},
    "sandwich": {"sandwich": 2},
}
"""Kinds of training of a supernet. `half` is the default of `nas train`."""
DRAWS, BATCHES, BATCH = 3, 4, 128
"""Random weights per proxy and member, whose mean counts; batches of images, and their size."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    made = {name: steps.add_parser(name, help=step.__doc__) for name, step in STEPS.items()}
    for name, step in made.items():
        if name == "score":
            step.add_argument("members", type=Path)
            step.add_argument("--scores", required=True)
            continue
        step.add_argument("--keep", type=Path, required=True)
        if name in ("train", "supernets", "proxies"):
            step.add_argument("--data", required=True)
    _train_options(made["train"])
    step = made["supernets"]
    step.add_argument("--epochs", type=int, default=3)
    step.add_argument("--kinds", default="half,plain", help=f"of {', '.join(SUPERNETS)}")
    step.add_argument("--images", type=int, default=2000, help="held-out images, at most")
    made["latency"].add_argument("--turns", type=int, default=10)
    arguments = parser.parse_args()
    try:
        print(json.dumps(STEPS[arguments.step](arguments), indent=2))
    except InputError as error:
        sys.exit(f"{error}")
    except NasError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _train_options(step: argparse.ArgumentParser) -> None:
    step.add_argument("--members", type=int, default=24, help="per family")
    step.add_argument("--seeds", type=int, default=1)
    step.add_argument("--repeated", type=int, default=3, help="members per family with all seeds")
    step.add_argument("--images", type=int, default=30000, help="training images")
    step.add_argument("--held-out", type=int, default=5000)
    step.add_argument("--epochs", type=int, default=1)
    step.add_argument("--batch", type=int, default=64)
    step.add_argument("--learning-rate", type=float, default=2e-3)


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train members alone."""
    keep: Path = arguments.keep
    members = begin(keep, [str(_space_file(family)) for family in FAMILIES], arguments.members)
    recipe = Recipe(
        epochs=arguments.epochs,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        ema=0.0,
        mix=0.0,
        # The last weights count. The best of several epochs would favour lucky ones.
        validate_every=0,
    )
    protocol = {"images": arguments.images, "held_out": arguments.held_out}
    keep_protocol(keep, {**protocol, "recipe": recipe.to_dict()})
    splits = _images(arguments.data, keep)
    known = accuracies(keep)
    ordered = [evenly(family) for family in by_family(members).values()]
    # All members once before any of them twice, and the families by turns.
    for seed in range(arguments.seeds):
        count = arguments.repeated if seed else arguments.members
        for row in zip(*(family[:count] for family in ordered), strict=True):
            for member in row:
                if seed not in known.get(member.name, {}):
                    _train_alone(member, splits, replace(recipe, seed=seed), keep)
    known = accuracies(keep)
    return {"members": len(known), "trainings": sum(map(len, known.values()))}


def _train_alone(member: Member, splits: Splits, recipe: Recipe, keep: Path) -> None:
    """Train a member from random weights, and record its held-out accuracy in percent."""
    folder = keep / "now" / f"{member.name}-seed{recipe.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    member.architecture.save(folder / "architecture.yaml")
    began = time.monotonic()
    used = time.process_time()
    done = nas.finetune(
        folder / "architecture.yaml", splits, recipe, out=folder / "alone", from_scratch=True
    )
    accuracy = float(done.description["accuracy"]["held_out"]["raw"]["accuracy"])
    add(
        keep / TRAININGS,
        member=member.name,
        seed=recipe.seed,
        accuracy=accuracy,
        seconds=round(time.monotonic() - began, 1),
        cpu_seconds=round(time.process_time() - used, 1),
    )
    # The journal has what counts; the weights of sixty trainings would fill a disk.
    shutil.rmtree(folder)
    print(f"{member.name}, seed {recipe.seed}: {accuracy:.2f} %", file=sys.stderr, flush=True)


def supernets(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train supernets, and evaluate members with the weights that they inherit."""
    from nas.supernet.evaluate import SlicedSupernet
    from nas.supernet.options import Recipe as SupernetRecipe
    from nas.supernet.train import train as train_supernet

    keep: Path = arguments.keep
    families = by_family(read_members(keep / MEMBERS))
    splits = _images(arguments.data, keep)
    # Kinds outside, so that a stopped run has the same kinds of both families.
    for kind in arguments.kinds.split(","):
        recipe = SupernetRecipe(
            epochs=arguments.epochs,
            batch=64,
            learning_rate=2e-3,
            alpha_rate=2e-3,
            validate_every=0,
            **SUPERNETS[kind],
        )
        for family, members in families.items():
            space = nas.load_space(str(_space_file(family)))
            root = keep / "supernets" / f"{family}-{kind}"
            score = f"supernet_{kind}"
            known = scores(keep).get(score, {})
            largest = space.largest()
            # Two names have one key where a drawn member is the largest one.
            names = defaultdict(list)
            named = {member.name: member.architecture for member in members}
            for name, arch in (named | {f"{family}-largest": largest}).items():
                if name not in known:
                    names[member_key(arch)].append(name)
            if not names:
                continue
            train_supernet(space, splits.train, recipe, root)
            supernet = SlicedSupernet(str(root), arguments.data, arguments.images)
            asked = [arch for arch in [largest, *named.values()] if member_key(arch) in names]
            for arch, evaluated in supernet.evaluate(largest, asked):
                for name in names[member_key(arch)]:
                    add(
                        keep / SCORES,
                        score=score,
                        member=name,
                        value=round(evaluated.accuracy, 3),
                        images=supernet.of["images"],
                    )
            print(f"{family}: {score}", file=sys.stderr, flush=True)
    return {score: len(values) for score, values in scores(keep).items()}


def proxies(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute zero-cost proxies of every member."""
    import torch
    from zero_cost import PROXIES, batches_of

    keep: Path = arguments.keep
    splits = _images(arguments.data, keep)
    batches = batches_of(splits.train, BATCHES, BATCH)
    recorded = scores(keep)
    for member in read_members(keep / MEMBERS):
        for name, proxy in PROXIES.items():
            if member.name in recorded.get(name, {}):
                continue
            values = []
            for seed in range(DRAWS):
                torch.manual_seed(seed)
                values.append(proxy(nas.build(member.architecture), batches))
            add(
                keep / SCORES,
                score=name,
                member=member.name,
                value=float(np.mean(values)),
                deviation=float(np.std(values, ddof=1)),
            )
    return {name: len(scores(keep).get(name, {})) for name in PROXIES}


def latency(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every member by turns on this computer (LiteRT, float32, one thread)."""
    from nas.convert.chain import Chain
    from nas.devices import Settings
    from nas.latency.known_devices import opened

    keep: Path = arguments.keep
    members = read_members(keep / MEMBERS)
    done = {entry["turn"] for entry in read_entries(keep / LATENCIES)}
    first = max(done, default=-1) + 1
    with opened("host", Settings()) as devices:
        host = devices[0]
        files = {
            member.name: host.prepare(Chain.network(member.architecture.operations())).result()
            for member in members
        }
        # The turn that a stopped run did not finish is left as it is and not counted.
        for turn in range(first, first + arguments.turns):
            for name, file in files.items():
                add(keep / LATENCIES, turn=turn, member=name, ms=host.measure(file).median_ms)
    return {name: round(ms, 5) for name, ms in latencies(keep).items()}


def summarise(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute every tau, and write what is known into members.csv."""
    keep: Path = arguments.keep
    members = read_members(keep / MEMBERS)
    known = accuracies(keep)
    recorded = scores(keep)
    measured = latencies(keep)
    # Supernets' scores alone have a number of images.
    images = {
        entry["score"]: entry["images"]
        for entry in read_entries(keep / SCORES)
        if "images" in entry
    }
    seeds = sorted({seed for each in known.values() for seed in each})
    columns: dict[str, dict[str, Any]] = {
        "accuracy": {name: round(float(np.mean(list(v.values()))), 3) for name, v in known.items()},
        **{
            f"accuracy_seed{seed}": {name: v[seed] for name, v in known.items() if seed in v}
            for seed in seeds
        },
        "latency_ms": {name: round(ms, 5) for name, ms in measured.items()},
        **recorded,
    }
    write_members(keep / MEMBERS, members, columns)
    protocol = protocol_of(keep)
    families = {}
    for family, all_members in by_family(members).items():
        trained = [member for member in all_members if member.name in known]
        if len(trained) >= 3:
            families[family] = _family(
                family, trained, known, recorded, measured, images, protocol["held_out"]
            )
    return {
        "protocol": protocol,
        "families": families,
        "versions": versions("torch", "scipy", "ai-edge-litert"),
    }


def _family(
    family: str,
    members: Sequence[Member],
    known: Mapping[str, Mapping[int, float]],
    recorded: Mapping[str, Mapping[str, float]],
    measured: Mapping[str, float],
    images: Mapping[str, int],
    held_out: int,
) -> dict[str, Any]:
    """Return the taus of every score of one family."""
    accuracy = [float(np.mean(list(known[member.name].values()))) for member in members]
    spread = noise([known[member.name] for member in members])
    space = nas.load_space(str(_space_file(family)))
    archs = [member.architecture for member in members]
    found = {
        "macs": tau([arch.macs for arch in archs], accuracy),
        "parameters": tau([arch.params for arch in archs], accuracy),
        "law": tau(-law_costs(space, archs), accuracy),
    }
    if all(member.name in measured for member in members):
        found["latency"] = tau([measured[member.name] for member in members], accuracy)
    for score, values in recorded.items():
        if all(member.name in values for member in members):
            found[score] = tau([values[member.name] for member in members], accuracy)
    # By supernet: inherited accuracies, that of the largest member, and the images of both.
    supernets = {
        name: ([values[arch.name] for arch in archs], values.get(f"{family}-largest"), images[name])
        for name, values in recorded.items()
        if name in found and name in images
    }
    posteriors = posterior_scores(
        space, archs, accuracy, supernets, held_out, spread["deviation"] or 0.0
    )
    found |= {name: tau(values, accuracy) for name, values in posteriors.items()}
    deviation = spread["deviation"]
    return {
        "members": len(members),
        "accuracy": {"least": round(min(accuracy), 2), "most": round(max(accuracy), 2)},
        "noise": spread,
        "tau_that_noise_allows": (
            None
            if deviation is None
            else ceiling(accuracy, [len(known[member.name]) for member in members], deviation)
        ),
        "scores": found,
    }


def score(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute the tau of one kind of scores, from a members.csv alone."""
    path: Path = arguments.members
    members = read_members(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = {row["member"]: row for row in csv.DictReader(file)}
    found = {}
    for family, each in by_family(members).items():
        trained = [member for member in each if rows[member.name].get("accuracy")]
        values = _values(arguments.scores, family, trained, rows)
        truth = [float(rows[member.name]["accuracy"]) for member in trained]
        found[family] = {"members": len(trained), **tau(values, truth)}
    return {"scores": arguments.scores, "families": found}


def _values(
    asked: str, family: str, members: Sequence[Member], rows: Mapping[str, Mapping[str, str]]
) -> list[float]:
    """Return a score per member; more is better.

    Raises:
        InputError: for a file of scores that lacks a member, or has no number for it.
    """
    archs = [member.architecture for member in members]
    if asked == "law":
        return (-law_costs(nas.load_space(str(_space_file(family))), archs)).tolist()
    if asked in next(iter(rows.values())):
        return [_number(asked, rows[member.name], member.name, asked) for member in members]
    if asked.endswith(".csv"):
        with Path(asked).open(newline="", encoding="utf-8") as file:
            given = {row.get("member", ""): row for row in csv.DictReader(file)}
        return [_number(asked, given.get(arch.name, {}), arch.name, "score") for arch in archs]
    loaded = nas.load_scores(asked)
    return [-loaded.cost(arch) for arch in archs]


def _number(where: str, row: Mapping[str, str], member: str, column: str) -> float:
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{where}: {member}: column '{column}' is not a number (got {row.get(column)!r}). Fix: a"
            " row per member with the columns member and score"
        ) from None


def _space_file(family: str) -> Path:
    return SPACES / f"{family}_enumerable.yaml"


def _images(data: str, keep: Path) -> Splits:
    """Return the images to train on and the held-out ones; the data's test images are not used."""
    protocol = protocol_of(keep)
    held_out = protocol["held_out"]
    limit = protocol["images"] + held_out
    return replace(load_data(data, (SIDE, SIDE), held_out=held_out, limit=limit), test=None)


STEPS = {
    "train": train,
    "supernets": supernets,
    "proxies": proxies,
    "latency": latency,
    "summarise": summarise,
    "score": score,
}


if __name__ == "__main__":
    main()
