"""Write a bundle, or what is missing in one: the chains that fill a table as files, and a plan."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.convert.chain import EMPTY, Chain, Interrupted, OperationFailed
from nas.convert.converter import MOST_WORKERS, Converter, Target
from nas.devices import board
from nas.devices.board.replay import bundle_errors
from nas.devices.board.runner.plan import FORMAT, PLAN_FILE, read_plan
from nas.devices.board.runner.plan import sha256 as sha256_of
from nas.devices.info import check_device_name
from nas.devices.kinds import (
    KINDS,
    BundleRecipe,
    DeviceKind,
    Settings,
    kind_of_fixed_name,
)
from nas.devices.packed import packed
from nas.devices.phones import Phone, phones
from nas.devices.precision import DEFAULT, check_precision, device_of, table_name
from nas.errors import InputError, NasError
from nas.extras import need
from nas.files import data_sha256, remove, write_text
from nas.latency.known_devices import table_info
from nas.latency.network_times import (
    Progress,
    calibration_members,
    check_members,
    resolution_id,
    space_id,
)
from nas.latency.profile.operation_timing import chains
from nas.latency.profile.width_groups import groups
from nas.locks import sole_writer
from nas.space import Space
from nas.space.operations import space_operations
from nas.versions import versions

FILES = "files"
README_FILE = "README.txt"
MERGE = "nas profile --merge FOLDER"
"""Line of the README by which a bundle is known that lost its plan."""

README = """\
The {count} files in this folder are measured for the latency table of {name}, for the space
{space}. plan.json describes each of them. They take {size:.0f} MB, and measuring them about
{hours:.1f} hours.

{how}

Every result is on disk in results.jsonl before the next file is run. The same command resumes after
a stop or a power failure. When it is done, take this folder (or results.jsonl alone, into a copy of
it) home and run there:

    {merge}
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
    settings: Settings | None = None,
    kind_name: str | None = None,
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
        settings: how the files are to be measured (default: as the phone.yaml says).
        kind_name: kind of a device without a phone.yaml (default: a board).
        check_nets: number of networks for `nas check` to add.
        seed: of those networks.
        workers: processes that convert (default: one per core, MOST_WORKERS at most).

    Raises:
        InputError: when the folder holds another bundle, the settings do not fit, or what converts
            is not installed.
        NasError: when the disk is full.
    """
    try:
        check_device_name(name)
    except ValueError as error:
        raise InputError(f"--device: {error}") from None
    settings = settings or Settings()
    table = table_info(name)
    if table is not None:
        # The name of a table may state a precision, as pixel-8-int8.
        name, stated = device_of(table)
        if stated is not None:
            check_precision(settings.precision, table.name, (stated,))
            settings = replace(settings, precision=stated)
    kind, recipe, phone = _followed(name, kind_name, table.kind if table else "")
    precision = settings.precision
    check_precision(precision, f"{name}, measured by a bundle,", tuple(recipe.by_precision))
    target = recipe.by_precision[precision] if precision else recipe.target
    device: dict[str, Any] = {
        "name": table_name(name, precision),
        "kind": kind.name,
        "description": phone.description if phone else recipe.description,
    }
    # Bundles that were written before there was a choice have no such key.
    if precision not in (None, DEFAULT):
        device["precision"] = precision
    _add_settings(device, kind, recipe, phone, settings)
    # Before programs are downloaded, which takes a while.
    need(f"converting to {target.name}", target.extra)
    _check_free(folder, recipe)
    if recipe.programs is not None:
        recipe.programs.begin(folder, device, settings)
    items = list(_items(space, recipe.copies, check_nets, seed))
    plan = _plan(space, device, recipe, target, items, {"nets": check_nets, "seed": seed})
    entries = {entry["digest"]: entry for entry in plan["files"]}
    with sole_writer(folder, "writing or running this bundle", once=True):
        kept = _keep(folder, plan, entries)
        converter = Converter(
            workers or min(os.cpu_count() or 1, MOST_WORKERS),
            cache=folder / FILES,
            target=target,
        )
        try:
            todo = [item for item in items if item.chain.digest() not in kept]
            asked = [converter.prepare(item.chain) for item in todo]
            interrupted: dict[str, str] = {}
            for number, (item, future) in enumerate(zip(todo, asked, strict=True)):
                progress("files", number, len(todo))
                # `entries` shares its dicts with the plan. The plan goes to disk after every file, so
                # that a killed call loses none.
                entry = entries[item.chain.digest()]
                try:
                    path = packed(future.result())
                    entry |= {
                        "file": path.relative_to(folder).as_posix(),
                        "sha256": sha256_of(path),
                    }
                except OperationFailed as error:
                    entry["failed"] = str(error)
                except Interrupted as error:
                    # The entry stays without a file: the bundle is not complete, and the same command
                    # converts it.
                    interrupted[entry["label"]] = str(error)
                write_text(folder / PLAN_FILE, json.dumps(plan, indent=1))
            progress("files", len(todo), len(todo))
        finally:
            converter.close()
        if interrupted:
            label, reason = next(iter(interrupted.items()))
            raise NasError(
                f"{folder}: the bundle is not complete, {len(interrupted)} files are missing, as of"
                f" {label}: {reason}"
            )
        _finish(folder, plan, recipe)
        failed = {entry["label"]: entry["failed"] for entry in plan["files"] if "failed" in entry}
        return Written(len(items), len(kept), failed)


def _followed(
    name: str, kind_name: str | None, of_table: str
) -> tuple[DeviceKind, BundleRecipe, Phone | None]:
    """Return the kind whose recipe the bundle of a device follows, the recipe and its phone.yaml.

    A device of a kind without a recipe, or of no known kind, is taken for a board.

    Args:
        name: of the device.
        kind_name: kind that the user states.
        of_table: kind in the device's table; empty without one.
    """
    phone = phones().get(name)
    known = phone.kind if phone else of_table
    kind = kind_of_fixed_name(name) or KINDS.get(known)
    if kind_name is not None:
        if kind is not None and kind.name != kind_name:
            raise InputError(
                f"--kind: {name} is of another kind (got {kind_name}, expected {kind.name})."
                " Fix: leave --kind out"
            )
        kind = _known_kind(kind_name)
    recipe = kind.bundle_recipe() if kind else None
    if kind is None or recipe is None:
        return board.KIND, board.KIND.bundle_recipe(), phone
    return kind, recipe, phone


def _known_kind(name: str) -> DeviceKind:
    """Return the kind of a name. Raises InputError where it has no bundles."""
    with_bundles = [known for known in KINDS if KINDS[known].bundle_recipe() is not None]
    if name not in with_bundles:
        raise InputError(
            f"--kind: is not a kind of device with bundles (got {name}, expected one of"
            f" {', '.join(with_bundles)})"
        )
    return KINDS[name]


def _add_settings(
    device: dict[str, Any],
    kind: DeviceKind,
    recipe: BundleRecipe,
    phone: Phone | None,
    settings: Settings,
) -> None:
    """Add how the files are to be measured to the plan's device.

    Raises:
        InputError: for a setting that devices of the kind do not have.
    """
    if settings.unit not in (None, *kind.units):
        raise InputError(
            f"--unit: is not a unit of {kind.name} devices (got {settings.unit}, expected one of"
            f" {', '.join(kind.units)})"
        )
    if recipe.programs is not None:
        device |= recipe.programs.device(phone, settings)
        return
    for option, value in (("affinity", settings.affinity), ("benchmark-model", settings.tool)):
        if value is not None:
            raise InputError(
                f"--{option}: is for bundles of Android phones (got one of {kind.name}). Fix: leave"
                " it out, or give --kind litert-android"
            )
    if settings.threads is not None and not recipe.standalone:
        raise InputError(
            f"--threads: has no effect on a bundle for {kind.name} devices. Fix: leave out --threads"
        )
    if settings.unit is not None:
        device["unit"] = settings.unit
    if recipe.standalone:
        device["threads"] = settings.threads or 1


def _check_free(folder: Path, recipe: BundleRecipe) -> None:
    """Raise InputError where a bundle would replace files that are no bundle's."""
    readme = folder / README_FILE
    bundled = readme.is_file() and MERGE.encode() in readme.read_bytes()
    if bundled or (folder / PLAN_FILE).exists():
        return
    names = [README_FILE, *(board.programs() if recipe.standalone else ())]
    names += recipe.programs.files if recipe.programs else ()
    for name in names:
        if (folder / name).exists():
            raise InputError(
                f"{folder / name}: exists, and the folder is not a bundle. Fix: --bundle with another"
                " folder"
            )


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
    target: Target,
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
        "format": FORMAT,
        "id": identity,
        **same,
        "check": check,
        "tools": versions(*target.packages),
        "files": files,
    }


def _keep(folder: Path, plan: dict[str, Any], entries: dict[str, dict[str, Any]]) -> set[str]:
    """Return the digests of the whole files of an earlier call, and remove the damaged ones.

    The entries of whole files get their name and checksum.

    Raises:
        InputError: when the folder's plan is damaged or of another bundle.
    """
    path = folder / PLAN_FILE
    for part in (path, folder / FILES, folder / board.RUNNER):
        # What is written or removed here must not be somebody's elsewhere.
        if part.is_symlink():
            raise InputError(f"{part}: is a link, expected a part of the bundle. Fix: remove it")
    if not path.exists():
        return set()
    with bundle_errors():
        old = read_plan(folder, complete=False, fix="remove it, then run the same command again")
    if old["id"] != plan["id"]:
        raise InputError(
            f"{path}: is of another bundle (of {old['device']['name']} for {old['space']} at"
            f" {old['resolution']}). Fix: --bundle with another folder"
        )
    kept = set()
    for entry in old["files"]:
        digest, sha256 = entry["digest"], entry["sha256"]
        # A file that could not be converted has no name, and no name is the folder of all files. An
        # entry of another chain is not of this bundle.
        if sha256 is None or not entry["file"] or digest not in entries:
            continue
        # Only the name of a file is used: a path in a damaged plan must not lead to a file outside
        # of the folder, which would be removed.
        file = folder / FILES / Path(entry["file"]).name
        if file.exists() and not file.is_symlink() and sha256_of(file) == sha256:
            entries[digest] |= {"file": file.relative_to(folder).as_posix(), "sha256": sha256}
            kept.add(digest)
        else:
            remove(file)
    return kept


def _finish(folder: Path, plan: dict[str, Any], recipe: BundleRecipe) -> None:
    """Write the plan, the README, and for a standalone bundle the programs that measure."""
    # The plan is written once more: where every file was kept, it was not written before.
    write_text(folder / PLAN_FILE, json.dumps(plan, indent=1))
    if recipe.standalone:
        (folder / board.RUNNER).mkdir(exist_ok=True)
        # Written under another name first: a link in the folder is replaced and not followed.
        for name, text in board.programs().items():
            write_text(folder / name, text)
    if recipe.programs is not None:
        recipe.programs.finish(folder, plan)
    parts = [part for part in (folder / FILES).rglob("*") if part.is_file()]
    text = README.format(
        name=plan["device"]["name"],
        space=f"{plan['space']} at {plan['resolution']}",
        count=len(plan["files"]),
        size=sum(part.stat().st_size for part in parts) / 1e6,
        hours=max(len(plan["files"]) * recipe.seconds / 3600, 0.1),
        how=recipe.how,
        merge=MERGE,
    )
    write_text(folder / README_FILE, text)
