"""Make the table of a bundle that was run."""

from __future__ import annotations

from pathlib import Path

from nas.blocks import Operation
from nas.convert.chain import Chain
from nas.devices.board.replay import Replay
from nas.devices.board.runner.plan import PLAN_FILE
from nas.errors import InputError
from nas.latency.check.table import can_run, check
from nas.latency.network_times import (
    NetworkTime,
    Progress,
    at_resolution_id,
    calibration_members,
    check_members,
)
from nas.latency.profile.bench import Report
from nas.latency.profile.operation_timing import chains
from nas.latency.profile.run import profile
from nas.latency.table import LatencyTable
from nas.space import load_space
from nas.space.operations import space_operations


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
        InputError: for a damaged bundle, results of another one, a space that is not here, or a
            table there of other settings.
        NasError: when the bundle was not run to its end.
    """
    replay = Replay(folder)
    plan = replay.plan
    try:
        whole = load_space(plan["space"])
    except InputError as error:
        # A path is relative to the working directory of the command that wrote the bundle.
        raise InputError(
            f"{folder / PLAN_FILE}: space: {error}. Fix: run this command where the bundle was written"
        ) from None
    space = at_resolution_id(whole, plan["resolution"], f"{folder / PLAN_FILE}: resolution")
    # A replay has results for the bundle's chains alone. So its operations are listed, rather than
    # chosen by interpolation error.
    chosen = [operation for operation in space_operations(space) if _measured(replay, operation)]
    planned = plan["check"]
    checked = check_members(space, planned["nets"], planned["seed"])
    members = [*calibration_members(space), *checked]
    # The plan names the space, not its content. Networks that are not in the bundle show that the
    # space has changed.
    if not all(replay.has(Chain.network(member.operations())) for member in members):
        raise InputError(
            f"{folder}: the space {plan['space']} has changed since it was written. Fix: write"
            " another bundle"
        )
    out = out or Path("latency_tables") / plan["device"]["name"]
    table, report = profile(space, replay, out, progress, chosen=chosen)
    # Where an operation of every network failed, the table has no check; the report says what failed.
    if not any(can_run(table, member) for member in checked):
        return table, report, []
    table, times = check(
        table, space, replay, planned["nets"], planned["seed"], progress, beside=False
    )
    return table, report, times


def _measured(replay: Replay, operation: Operation) -> bool:
    """Return whether the bundle has all chains that an operation is measured by."""
    return all(map(replay.has, chains(operation, replay.copies)))
