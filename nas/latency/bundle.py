"""Write, run and merge bundles: folders in which measurements travel to another machine.

`nas profile --bundle` writes the chains that fill a table as files. `--run` measures them on the
machine that has the device, and `--merge` makes the table of the results at home.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.blocks import Operation
from nas.convert.chain import Chain, OperationFailed
from nas.convert.converter import MOST_WORKERS, Converter
from nas.devices import board, opened
from nas.devices.base import Device
from nas.devices.board import run as board_runner
from nas.devices.board.replay import Replay, bundle_errors
from nas.devices.kinds import (
    KINDS,
    BundleRecipe,
    DeviceKind,
    Settings,
    kind_of_fixed_name,
)
from nas.devices.phones import Phone, phones
from nas.errors import InputError
from nas.files import data_sha256, read_text, remove, write_text
from nas.latency.check.table import check
from nas.latency.network_times import (
    NetworkTime,
    Progress,
    at_resolution_id,
    calibration_members,
    check_members,
    resolution_id,
    space_id,
)
from nas.latency.profile.bench import Report
from nas.latency.profile.operation_timing import EMPTY, chains
from nas.latency.profile.run import profile
from nas.latency.profile.width_groups import groups
from nas.latency.table import LatencyTable
from nas.space import Space, load_space
from nas.space.operations import space_operations
from nas.versions import versions

FILES = "files"

README = """\
The {count} files in this folder are measured for the latency table of {name}, for the space
{space}. plan.json describes each of them.

{how}

Every result is on disk in results.jsonl before the next file is run. The same command resumes after
a stop or a power failure. When it is done, take this folder (or results.jsonl alone, into a copy of
it) home and run there:

    nas profile --merge FOLDER
"""


@dataclass(frozen=True)
class Item:
    """A chain of a bundle; `role` is `empty`, `operation`, `stack`, `calibration` or `check`."""

    chain: Chain
    role: str
    label: str


@dataclass(frozen=True)
class Written:
    """The outcome of `write_bundle`.

    Attributes:
        files: number of files in the bundle.
        kept: number of those that an earlier call wrote.
        failed: messages of chains that could not be converted, by label.
    """

    files: int
    kept: int
    failed: dict[str, str]


def write_bundle(
    space: Space,
    name: str,
    folder: Path,
    progress: Progress = lambda *_: None,
    *,
    threads: int = 1,
    check_nets: int = 0,
    seed: int = 0,
    workers: int | None = None,
) -> Written:
    """Write the bundle of a device, or only the files that are missing or damaged in it.

    Args:
        space: whose operations and networks are measured.
        name: of a phone with a phone.yaml, or any other for a board with LiteRT.
        folder: of the bundle.
        progress: is called before each file.
        threads: CPU threads of a board.
        check_nets: number of networks for `nas check` to add.
        seed: of those networks.
        workers: processes that convert (default: one per core, MOST_WORKERS at most).

    Raises:
        InputError: when the folder holds another bundle, or what converts is not installed.
        NasError: when the disk is full.
    """
    kind, recipe, phone = _followed(name)
    device: dict[str, Any] = {
        "name": name,
        "kind": kind.name,
        "description": phone.description if phone else recipe.description,
    }
    if recipe.standalone:
        device["threads"] = threads
    items = list(_items(space, recipe.copies, check_nets, seed))
    plan = _plan(space, device, recipe, items, {"nets": check_nets, "seed": seed})
    entries = {entry["digest"]: entry for entry in plan["files"]}
    kept = _keep(folder, plan, entries)
    converter = Converter(
        workers or min(os.cpu_count() or 1, MOST_WORKERS),
        cache=folder / FILES,
        target=recipe.target,
    )
    try:
        todo = [item for item in items if item.chain.digest() not in kept]
        asked = [converter.prepare(item.chain) for item in todo]
        for number, (item, future) in enumerate(zip(todo, asked, strict=True)):
            progress("files", number, len(todo))
            # `entries` shares its dicts with the plan. The plan goes to disk after every file, so
            # that a killed call loses none.
            entry = entries[item.chain.digest()]
            try:
                path = future.result()
                entry |= {
                    "file": path.relative_to(folder).as_posix(),
                    "sha256": board_runner.sha256(path),
                }
            except OperationFailed as error:
                entry["failed"] = str(error)
            write_text(folder / board_runner.PLAN_FILE, json.dumps(plan, indent=1))
        progress("files", len(todo), len(todo))
    finally:
        converter.close()
    _finish(folder, plan, recipe)
    failed = {entry["label"]: entry["failed"] for entry in plan["files"] if "failed" in entry}
    return Written(len(items), len(kept), failed)


def run_bundle(
    folder: Path, progress: Progress = lambda *_: None, threads: int | None = None
) -> dict[str, int]:
    """Measure the files of a bundle that have no result yet, on this machine.

    Args:
        folder: of the bundle.
        progress: is called before each file.
        threads: CPU threads of a board (default: those that the bundle was written for).

    Returns:
        Counts of `files`, `measured`, `reused`, `failed` and `drifted` ones.

    Raises:
        InputError: for a damaged bundle, results of another one, or a machine that lacks what it
            takes.
        NasError: when the disk is full.
        DeviceLost: when the phone is gone; what was measured is kept.
    """
    with bundle_errors():
        plan = board_runner.read_plan(folder)
        kind = str(plan["device"]["kind"])
        recipe = _recipe(folder, kind)
        if recipe.standalone:
            return board_runner.run_litert(folder, progress, threads)
        name = plan["device"]["name"]
        _check_reachable(name, kind)
        with opened(name, Settings()) as (device, *_):
            # Plain JSON data: the results' header is written from it and compared with it.
            info = json.loads(json.dumps(device.info().to_dict()))
            return board_runner.run(
                folder, plan, info, lambda path: _measure(device, path), progress, recipe.bound
            )


def merge_bundle(
    folder: Path, out: Path | None = None, progress: Progress = lambda *_: None
) -> tuple[LatencyTable, Report, list[NetworkTime]]:
    """Make the table of a bundle that was run, and check it where it has networks for that.

    Args:
        folder: of the bundle with its results.
        out: the table's folder (default: ./latency_tables/DEVICE).
        progress: is called as by `profile` and `check`.

    Returns:
        The table, the report of `profile`, and the networks of the check.

    Raises:
        InputError: for a damaged bundle, results of another one, or a table there of other
            settings.
        NasError: when the bundle was not run to its end.
    """
    replay = Replay(folder)
    plan = replay.plan
    space = at_resolution_id(load_space(plan["space"]), plan["resolution"])
    # A replay has results for the bundle's chains alone. So its operations are listed, rather than
    # chosen by interpolation error.
    chosen = [operation for operation in space_operations(space) if _measured(replay, operation)]
    planned = plan["check"]
    members = [*calibration_members(space), *check_members(space, planned["nets"], planned["seed"])]
    # The plan names the space, not its content. Networks that are not in the bundle show that the
    # space has changed.
    if not all(replay.has(Chain.network(member.operations())) for member in members):
        raise InputError(
            f"{folder}: the space {plan['space']} has changed since it was written. Fix: write"
            " another bundle"
        )
    out = out or Path("latency_tables") / plan["device"]["name"]
    table, report = profile(space, replay, out, progress, chosen=chosen)
    if not planned["nets"]:
        return table, report, []
    table, times = check(
        table, space, replay, planned["nets"], planned["seed"], progress, beside=False
    )
    return table, report, times


def _followed(name: str) -> tuple[DeviceKind, BundleRecipe, Phone | None]:
    """Return the kind whose recipe the bundle of a device follows, the recipe and its phone.yaml.

    A device of a kind without a recipe, or of no known kind, is taken for a board.
    """
    phone = phones().get(name)
    kind = KINDS[phone.kind] if phone else kind_of_fixed_name(name)
    recipe = kind.bundle_recipe() if kind else None
    if kind is None or recipe is None:
        return board.KIND, board.KIND.bundle_recipe(), phone
    return kind, recipe, phone


def _recipe(folder: Path, kind: str) -> BundleRecipe:
    """Return the recipe of a kind. Raises InputError where it is unknown here."""
    recipe = KINDS[kind].bundle_recipe() if kind in KINDS else None
    if recipe is None:
        raise InputError(
            f"{folder}: is a bundle for devices of the kind '{kind}', which is not installed here."
            " Fix: install the package that has it"
        )
    return recipe


def _items(space: Space, copies: int, check_nets: int, seed: int) -> Iterator[Item]:
    """Yield the chains that `profile` and `check` will ask for, each once."""
    # A bundle cannot choose by earlier results. So it holds the most operations that a chooser
    # might name of each group.
    yield Item(EMPTY, "empty", "an empty call")
    for group in groups(space_operations(space)):
        for operation in group.chosen():
            for chain in chains(operation, copies):
                yield Item(
                    chain, "operation" if len(chain.blocks) == 1 else "stack", str(operation)
                )
    for member in calibration_members(space):
        yield Item(Chain.network(member.operations()), "calibration", member.name)
    for member in check_members(space, check_nets, seed):
        yield Item(Chain.network(member.operations()), "check", member.name)


def _plan(
    space: Space,
    device: dict[str, Any],
    recipe: BundleRecipe,
    items: Sequence[Item],
    check: dict[str, int],
) -> dict[str, Any]:
    """Return the plan of a bundle that has no file yet."""
    files = [
        {
            "digest": item.chain.digest(),
            "role": item.role,
            "label": item.label,
            "file": "",
            "sha256": None,
        }
        for item in items
    ]
    same = {
        "device": device,
        "space": space_id(space),
        "resolution": resolution_id(space),
        "copies": recipe.copies,
    }
    # The identity covers the chains and how they are measured, not the files. A damaged file that
    # is written again, or another version of a tool, does not change it.
    chains = [entry["digest"] for entry in files]
    identity = data_sha256([same, chains])[:32]
    return {
        "format": board_runner.FORMAT,
        "id": identity,
        **same,
        "check": check,
        "tools": versions(*recipe.target.packages),
        "files": files,
    }


def _keep(folder: Path, plan: dict[str, Any], entries: dict[str, dict[str, Any]]) -> set[str]:
    """Return the digests of the whole files of an earlier call, and remove the damaged ones.

    The entries of whole files get their name and checksum.

    Raises:
        InputError: when the folder's plan is damaged or of another bundle.
    """
    path = folder / board_runner.PLAN_FILE
    if not path.exists():
        return set()
    try:
        old = json.loads(read_text(path))
        # Only the name of a file is used: a path in a damaged plan must not lead to a file outside
        # of the folder, which would be removed.
        known = {
            entry["digest"]: (folder / FILES / Path(entry["file"]).name, entry["sha256"])
            for entry in old["files"]
        }
        same = old["id"] == plan["id"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: is damaged. Fix: remove it, then run the same command again"
        ) from None
    if not same:
        raise InputError(
            f"{path}: is of another bundle (of {old['device']['name']} for {old['space']} at"
            f" {old['resolution']}). Fix: --bundle with another folder"
        )
    kept = set()
    for digest, (file, sha256) in known.items():
        if sha256 is None:
            continue
        if file.exists() and board_runner.sha256(file) == sha256:
            entries[digest] |= {"file": file.relative_to(folder).as_posix(), "sha256": sha256}
            kept.add(digest)
        else:
            remove(file)
    return kept


def _finish(folder: Path, plan: dict[str, Any], recipe: BundleRecipe) -> None:
    """Write the plan, the README, and for a standalone bundle the programs that measure."""
    # The plan is written once more: where every file was kept, it was not written before.
    write_text(folder / board_runner.PLAN_FILE, json.dumps(plan, indent=1))
    here = Path(board_runner.__file__)
    if recipe.standalone:
        shutil.copyfile(here, folder / "run.py")
        shutil.copyfile(here.with_name(board_runner.TIMER_FILE), folder / board_runner.TIMER_FILE)
    text = README.format(
        name=plan["device"]["name"],
        space=f"{plan['space']} at {plan['resolution']}",
        count=len(plan["files"]),
        how=recipe.how,
    )
    write_text(folder / "README.txt", text)


def _check_reachable(name: str, kind: str) -> None:
    """Raise InputError unless this machine knows the name as a device of the kind."""
    phone = phones().get(name)
    fixed = kind_of_fixed_name(name)
    known = phone.kind if phone else fixed.name if fixed else None
    if known == kind:
        return
    wrong = "missing here" if known is None else f"of another kind (got {known}, expected {kind})"
    raise InputError(
        f"{name}: phone.yaml is {wrong}. Fix: copy it into latency_tables/{shlex.quote(name)} from"
        " the machine where the bundle was written"
    )


def _measure(device: Device, path: Path) -> dict[str, Any]:
    """Return a file's timing as plain data, with the board runner's own error."""
    try:
        return asdict(device.measure(path))
    except OperationFailed as error:
        raise board_runner.CannotRun(str(error)) from error


def _measured(replay: Replay, operation: Operation) -> bool:
    """Return whether the bundle has all chains that an operation is measured by."""
    return all(map(replay.has, chains(operation, replay.copies)))
