"""Bundles: written, carried, run and brought home, with a converter and a runtime made of a
formula."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fake_converter import FakeConverter
from fake_phone.shell import ELF_ARM64
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.devices import Chain, Interrupted, board
from nas.devices.board.replay import Replay
from nas.devices.board.runner import measuring
from nas.devices.board.runner.errors import BundleError, CannotRun, Ended
from nas.devices.board.runner.measuring import run_litert
from nas.devices.board.runner.plan import read_plan
from nas.devices.board.runner.results import Results, read_results
from nas.devices.coreml import COPIES
from nas.devices.kinds import Settings
from nas.devices.phones import phones
from nas.errors import InputError, NasError
from nas.latency import load_table
from nas.latency.bundle import merge_bundle, run_bundle, write, write_bundle
from nas.latency.profile.run import profile
from nas.space import Space, load_space
from nas.space.operations import space_operations
from nas.testing.devices import FakeDevice, true_ms


class FakeTimer:
    """Takes `true_ms` for what a FakeConverter wrote, in place of the process that runs LiteRT."""

    measured: list[Path]
    fails: Callable[[Chain], bool] = staticmethod(lambda chain: False)
    factor: Callable[[int], float] = staticmethod(lambda count: 1.0)
    stop_after: int | None = None
    soc = "a board"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        FakeTimer.measured = []

    def choose(self, path: Path) -> None:
        """There is one runtime."""

    def measure(self, path: Path) -> dict[str, Any]:
        if FakeTimer.stop_after is not None and len(FakeTimer.measured) >= FakeTimer.stop_after:
            raise KeyboardInterrupt
        FakeTimer.measured.append(path)
        chain = Chain.from_dict(json.loads(path.read_text()))
        if FakeTimer.fails(chain):
            raise CannotRun("RuntimeError: unsupported")
        ms = true_ms(chain) * FakeTimer.factor(len(FakeTimer.measured))
        return {"median_ms": ms, "p10_ms": ms * 0.99, "p90_ms": ms * 1.02, "runs": 100}

    def describe(self, plan: dict[str, Any]) -> dict[str, Any]:
        info = asdict(FakeDevice().info())
        here = {
            name: info[name]
            for name in ("os", "runtime", "runtime_version", "compute_unit", "precision", "date")
        }
        return {
            **plan["device"],
            **here,
            "soc": FakeTimer.soc,
            "threads": self.threads,
            "provenance": "measured",
        }

    def close(self) -> None:
        """Nothing was started."""


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "Converter", FakeConverter)
    monkeypatch.setattr(measuring, "Timer", FakeTimer)
    monkeypatch.setattr(measuring, "PAUSES_S", (0.0, 0.0))
    for name in ("fails", "factor", "stop_after", "soc"):
        for fake in (FakeConverter, FakeTimer):
            if hasattr(fake, name):  # put back what a test changes
                monkeypatch.setattr(fake, name, fake.__dict__[name])


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@pytest.fixture
def folder(space: Space, tmp_path: Path) -> Path:
    """A bundle that is written."""
    write_bundle(space, "board", tmp_path / "bundle", check_nets=4)
    return tmp_path / "bundle"


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def plan_of(folder: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((folder / "plan.json").read_text())
    return plan


def test_table_of_a_bundle_is_that_of_the_device(
    space: Space, folder: Path, tmp_path: Path
) -> None:
    counts = run_bundle(folder)
    assert (
        counts == {**counts, "failed": 0, "drifted": 0, "reused": 0}
        and counts["measured"] == counts["files"]
    )
    table, report, times = merge_bundle(folder, tmp_path / "table")
    chosen = [operation for operation in space_operations(space) if table.rows[operation.key].runs]
    expected, _ = profile(space, FakeDevice(), tmp_path / "other", chosen=chosen)
    assert {key: row.median_ms for key, row in table.rows.items()} == {
        key: row.median_ms for key, row in expected.rows.items()
    }
    assert (
        not report.failed
        and not report.missing
        and table.device.calibration == expected.device.calibration
    )
    assert len(times) == 4 and table.device.check is not None and table.device.check.mape < 1
    loaded = load_table(tmp_path / "table")
    assert loaded.rows == table.rows and loaded.device == table.device
    assert (loaded.device.name, loaded.device.kind, loaded.device.soc) == (
        "board",
        "litert-board",
        "a board",
    )


def test_bundle_has_what_it_needs_and_says_what_it_is(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= {
        "plan.json",
        "run.py",
        "runner",
        "README.txt",
        "files",
    }
    plan = plan_of(folder)
    digests = [entry["digest"] for entry in plan["files"]]
    assert plan["format"] == "nas-bundle-1" and len(set(digests)) == len(digests) == len(
        list(folder.glob("files/*"))
    )
    assert {entry["role"] for entry in plan["files"]} == {
        "empty",
        "operation",
        "stack",
        "calibration",
        "check",
    }
    text = (folder / "README.txt").read_text()
    assert "board" in text and "python run.py" in text and "nas profile --merge" in text
    for name, program in board.programs().items():
        assert (folder / name).read_text() == program


@pytest.mark.parametrize("name", ["my-pi", "host"])
def test_devices_of_kinds_without_bundles_get_those_of_a_board(
    space: Space, tmp_path: Path, name: str
) -> None:
    write_bundle(space, name, tmp_path / "bundle", settings=Settings(threads=2))
    device = plan_of(tmp_path / "bundle")["device"]
    phone = phones().get(name)
    assert device == {
        "name": name,
        "kind": "litert-board",
        "description": phone.description if phone else "a computer with LiteRT",
        "threads": 2,
    }
    assert (tmp_path / "bundle" / "run.py").exists()


@pytest.mark.parametrize(
    ("name", "kind", "table", "precision"),
    [
        ("galaxy-s26", "litert-android", "galaxy-s26", "float32"),
        ("galaxy-s24-int8", "litert-android", "galaxy-s24-int8", "int8"),
    ],
)
def test_bundle_by_the_name_of_a_table_is_of_its_kind_and_precision(
    space: Space, tmp_path: Path, name: str, kind: str, table: str, precision: str
) -> None:
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(ELF_ARM64)
    write_bundle(space, name, tmp_path / "bundle", settings=Settings(tool=tool))
    device = plan_of(tmp_path / "bundle")["device"]
    assert (device["name"], device["kind"], device["precision"]) == (table, kind, precision)


def test_precision_that_the_name_of_a_table_contradicts_is_refused(
    space: Space, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"on galaxy-s24-int8 \(got float32, expected int8\)"):
        write_bundle(
            space, "galaxy-s24-int8", tmp_path / "bundle", settings=Settings(precision="float32")
        )


def test_options_without_effect_on_a_bundle_are_refused(
    space: Space, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"--unit: is not a unit of litert-board .*\(got gpu"):
        run_bundle(folder, unit="gpu")
    with pytest.raises(InputError, match=r"--threads: has no effect in a device farm"):
        run_bundle(folder, threads=2, through="qai-hub")
    with pytest.raises(InputError, match=r"--threads: has no effect on a bundle for coreml"):
        write_bundle(space, "iphone12", tmp_path / "other", settings=Settings(threads=2))
    write_bundle(space, "iphone12", tmp_path / "other")
    with pytest.raises(InputError, match=r"--threads: has no effect on a bundle for coreml"):
        run_bundle(tmp_path / "other", threads=2)


@pytest.mark.parametrize("name", ["README.txt", "run.py"])
def test_files_of_somebody_else_are_not_replaced(space: Space, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name}: exists, .*Fix: --bundle with another folder"):
        write_bundle(space, "board", folder)
    assert (folder / name).read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == [name]


def test_bundle_that_lost_its_plan_is_written_again(space: Space, folder: Path) -> None:
    (folder / "plan.json").unlink()
    write_bundle(space, "board", folder, check_nets=4)
    assert plan_of(folder)["device"]["name"] == "board"


@pytest.mark.parametrize("size", ["big", "224x224", "100x100/10", "32x32/warp_head(classes=3)"])
def test_size_in_a_plan_that_is_none_is_named(folder: Path, tmp_path: Path, size: str) -> None:
    run_bundle(folder)
    plan = plan_of(folder)
    (folder / "plan.json").write_text(json.dumps({**plan, "resolution": size}))
    with pytest.raises(
        InputError, match=rf"plan\.json: resolution: is not .*got '{re.escape(size)}'"
    ):
        merge_bundle(folder, tmp_path / "table")


def test_space_that_is_not_here_is_named_with_its_plan(folder: Path, tmp_path: Path) -> None:
    run_bundle(folder)
    (folder / "plan.json").write_text(json.dumps({**plan_of(folder), "space": "gone/few.yaml"}))
    with pytest.raises(InputError, match=r"plan\.json: space: gone/few\.yaml.*Fix: .*was written$"):
        merge_bundle(folder, tmp_path / "table")


def test_remedies_quote_the_folder(space: Space, tmp_path: Path) -> None:
    write_bundle(space, "board", tmp_path / "my bundle")
    with pytest.raises(NasError, match=r"nas profile --run '.*/my bundle', or without nas"):
        merge_bundle(tmp_path / "my bundle", tmp_path / "table")


def test_core_ml_bundle_has_folders_of_more_copies(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(space, "iphone12", tmp_path / "bundle")
    plan = plan_of(tmp_path / "bundle")
    assert (plan["device"]["kind"], plan["copies"]) == ("coreml", COPIES)
    assert all(entry["file"].endswith(".mlpackage") for entry in plan["files"])
    assert not (tmp_path / "bundle" / "run.py").exists()
    assert "NAS_APPLE_TEAM" in (tmp_path / "bundle" / "README.txt").read_text()
    device = FakePhone()
    monkeypatch.setattr("nas.devices.coreml.device.CoreML", lambda phone, table: device)
    run_bundle(tmp_path / "bundle")
    assert device.closed
    table, _, times = merge_bundle(tmp_path / "bundle", tmp_path / "table")
    measured = [row for row in table.rows.values() if row.runs]
    assert (
        measured and all(dict(row.extra)["placement"] == "ne 3/3" for row in measured) and not times
    )
    assert table.device.kind == "coreml" and table.device.name == "iphone12"
    for operation in space_operations(space):
        assert table.rows[operation.key].median_ms == pytest.approx(
            true_ms(Chain.stack(operation)) - 0.002, abs=3e-4
        )


class FakePhone(FakeDevice):
    """Reads packages that a FakeConverter wrote."""

    copies = COPIES

    def info(self) -> Any:
        return replace(
            super().info(), name="iphone12", kind="coreml", compute_unit="all", threads=None
        )

    def measure(self, artifact: Path) -> Any:
        chain = Chain.from_dict(json.loads((artifact / "Data" / "model.mlmodel").read_text()))
        self._chains[artifact] = chain
        return replace(super().measure(artifact), notes=(("placement", "ne 3/3"),))


def test_core_ml_bundle_does_not_run_here(space: Space, tmp_path: Path) -> None:
    write_bundle(space, "iphone12", tmp_path / "bundle")
    with pytest.raises(InputError, match="a Mac with Xcode"):
        run_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="is a bundle for Core ML"):
        run_litert(tmp_path / "bundle", lambda *_: None)


@pytest.mark.parametrize("part", [0.1, 0.6])
def test_writing_goes_on_after_a_stop(
    space: Space, folder: Path, tmp_path: Path, part: float
) -> None:
    total = len(plan_of(folder)["files"])
    FakeConverter.stop_after = int(part * total)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(space, "board", tmp_path / "again", check_nets=4)
    with pytest.raises(
        InputError, match=r"plan\.json: the bundle is not complete\. Fix: run the command"
    ):
        run_bundle(tmp_path / "again")
    FakeConverter.stop_after = None
    written = write_bundle(space, "board", tmp_path / "again", check_nets=4)
    assert (
        written.kept == int(part * total) and len(FakeConverter.converted) == total - written.kept
    )
    assert plan_of(tmp_path / "again") == plan_of(folder)


def test_second_writing_keeps_everything(space: Space, folder: Path) -> None:
    before = plan_of(folder)
    written = write_bundle(space, "board", folder, check_nets=4)
    assert (
        written.kept == written.files and not FakeConverter.converted and plan_of(folder) == before
    )


def test_damaged_file_is_named_and_written_again(space: Space, folder: Path) -> None:
    entry = plan_of(folder)["files"][5]
    (folder / entry["file"]).write_text("{}")
    with pytest.raises(InputError, match=rf"{entry['file']}: is damaged.*copy the bundle again"):
        run_bundle(folder)
    (folder / plan_of(folder)["files"][7]["file"]).unlink()
    assert (
        write_bundle(space, "board", folder, check_nets=4).kept == len(plan_of(folder)["files"]) - 2
    )
    assert run_bundle(folder)["failed"] == 0


@pytest.mark.parametrize("key", ["id", "device", "space", "resolution", "files"])
def test_a_damaged_plan_is_named_by_the_command_that_writes(
    space: Space, folder: Path, key: str
) -> None:
    plan = plan_of(folder)
    del plan[key]
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(
        InputError, match=rf"plan\.json: {key}: is missing .*Fix: remove it, then run the same"
    ):
        write_bundle(space, "board", folder, check_nets=4)


def test_an_entry_without_a_file_removes_no_other(space: Space, folder: Path) -> None:
    """Its name is empty, as the folder of all files has it."""
    plan = plan_of(folder)
    plan["files"][0]["file"] = ""
    (folder / "plan.json").write_text(json.dumps(plan))
    written = write_bundle(space, "board", folder, check_nets=4)
    assert written.kept == written.files - 1


def test_missing_file_is_named(folder: Path) -> None:
    entry = plan_of(folder)["files"][0]
    (folder / entry["file"]).unlink()
    with pytest.raises(
        InputError, match=rf"{entry['file']}: is missing\. Fix: copy the bundle again"
    ):
        run_bundle(folder)


def test_folder_of_another_bundle_is_refused(space: Space, folder: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"plan\.json: is of another bundle \(of board for .* at 64x64/10\)\. Fix: ",
    ):
        write_bundle(space, "other", folder, check_nets=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"plan\.json: is damaged"),
        ("[]", r"plan\.json: is not a plan of the format nas-bundle-1"),
        ('{"format": "nas-bundle-9"}', r"plan\.json: is not a plan of the format nas-bundle-1"),
        (
            '{"format": "nas-bundle-1", "files": [1]}',
            r"plan\.json: id: is missing or damaged",
        ),
        (None, r"plan\.json: cannot be read \(No such file or directory\)\. Fix: give the folder"),
    ],
)
def test_plan_that_is_none(folder: Path, text: str | None, message: str) -> None:
    (folder / "plan.json").unlink()
    if text is not None:
        (folder / "plan.json").write_text(text)
    for action in (run_bundle, merge_bundle):
        with pytest.raises(InputError, match=message):
            action(folder)


@pytest.mark.parametrize("stop", [1, 7, 20])
def test_running_goes_on_after_a_stop(folder: Path, stop: int, tmp_path: Path) -> None:
    FakeTimer.stop_after = stop
    with pytest.raises(KeyboardInterrupt):
        run_bundle(folder)
    done = sum("digest" in entry for entry in results(folder))
    with pytest.raises(
        NasError, match=r"files are not measured\. Fix: on the machine .*nas profile --run .*bundle"
    ):
        merge_bundle(folder, tmp_path / "table")
    FakeTimer.stop_after = None
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"digest": "torn')
    counts = run_bundle(folder)
    assert counts["reused"] == done and counts["measured"] == counts["files"] - done
    assert all(isinstance(entry, dict) for entry in results(folder))
    merge_bundle(folder, tmp_path / "table")


def test_second_run_measures_nothing(folder: Path) -> None:
    run_bundle(folder)
    lines = results(folder)
    counts = run_bundle(folder)
    assert (counts["measured"], counts["reused"]) == (0, counts["files"])
    assert not FakeTimer.measured and results(folder) == lines


def test_results_of_another_bundle_are_refused(space: Space, folder: Path, tmp_path: Path) -> None:
    write_bundle(space, "other", tmp_path / "other")
    run_bundle(tmp_path / "other")
    (tmp_path / "other" / "results.jsonl").rename(folder / "results.jsonl")
    for action in (run_bundle, merge_bundle):
        with pytest.raises(
            InputError, match=r"results\.jsonl: holds the results of another bundle"
        ):
            action(folder)


def test_results_of_another_machine_are_refused(folder: Path) -> None:
    FakeTimer.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        run_bundle(folder)
    FakeTimer.stop_after = None
    FakeTimer.soc = "another board"
    with pytest.raises(
        InputError,
        match=r"another soc \(got 'another board', expected 'a board'\)\. Fix: resume where",
    ):
        run_bundle(folder)


def test_damaged_line_is_named(folder: Path) -> None:
    run_bundle(folder)
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join([*lines[:3], "garbage\n", *lines[4:]]))
    for action in (run_bundle, merge_bundle):
        with pytest.raises(
            InputError, match=r"results\.jsonl:4: this line is not a result\. Fix: remove the line"
        ):
            action(folder)


@settings(max_examples=200)
@given(
    content=st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | (
                st.dictionaries(
                    st.sampled_from(["format", "id", "files", "device", "bundle", "digest"]), inner
                )
            )
        ),
    ).map(lambda data: json.dumps(data).encode() + b"\n")
)
def test_any_content_of_a_file_is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        for name in ("plan.json", "results.jsonl"):
            Path(folder, name).write_bytes(content)
        with contextlib.suppress(BundleError):
            plan = read_plan(Path(folder))
            assert plan["format"] == "nas-bundle-1" and plan["files"] is not None
        with contextlib.suppress(BundleError):
            assert all(isinstance(entry, dict) for entry in read_results(Path(folder), {"id": "x"}))


def test_damaged_header_is_named(folder: Path, tmp_path: Path) -> None:
    run_bundle(folder)
    first, *rest = results(folder)
    del first["device"]["soc"]
    (folder / "results.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [first, *rest])
    )
    with pytest.raises(InputError, match=r"results\.jsonl:1: device: soc: "):
        merge_bundle(folder, tmp_path / "table")


def test_what_cannot_run_is_missing_in_the_table(
    space: Space, folder: Path, tmp_path: Path
) -> None:
    FakeTimer.fails = lambda chain: (
        chain.tied and chain.blocks[0].kind == "mb3d" and chain.input.channels == 48
    )
    assert run_bundle(folder)["failed"] == 2, "one copy, and the stack"
    table, report, _ = merge_bundle(folder, tmp_path / "table")
    assert [(name[:4], reason) for name, reason in report.failed.items()] == [
        ("mb3d", "RuntimeError: unsupported")
    ]
    assert len(table.rows) == len(space_operations(space)) - 1


def test_what_cannot_be_converted_is_missing_in_the_table(space: Space, tmp_path: Path) -> None:
    FakeConverter.fails = lambda chain: (
        chain.tied and chain.blocks[0].kind == "mb3d" and chain.input.channels == 48
    )
    written = write_bundle(space, "board", tmp_path / "bundle")
    assert list(written.failed.values()) == ["NotImplementedError: no such layer"]
    run_bundle(tmp_path / "bundle")
    _, report, _ = merge_bundle(tmp_path / "bundle", tmp_path / "table")
    assert list(report.failed.values()) == ["NotImplementedError: no such layer"]


def test_drift_that_goes_away_is_measured_again(folder: Path, tmp_path: Path, space: Space) -> None:
    FakeTimer.factor = lambda count: 1.5 if 15 <= count <= 22 else 1.0
    assert run_bundle(folder)["drifted"] == 0
    assert max(abs(entry.get("drift", 0.0)) for entry in results(folder)) == pytest.approx(
        0.5, abs=0.01
    )
    table, _, _ = merge_bundle(folder, tmp_path / "table")
    assert all(not row.extra for row in table.rows.values())
    for seed in range(20):
        member = space.sample(seed)
        truth = true_ms(Chain.network(member.operations()))
        assert table.total_ms(member) == pytest.approx(truth, rel=0.02)


def test_drift_that_stays_is_noted_in_the_rows(folder: Path, tmp_path: Path) -> None:
    FakeTimer.factor = lambda count: 1.5 if count >= 15 else 1.0
    counts = run_bundle(folder)
    assert counts["drifted"] == counts["files"] - 10
    table, _, _ = merge_bundle(folder, tmp_path / "table")
    noted = [row for row in table.rows.values() if dict(row.extra).get("note") == "drift"]
    assert 0 < len(noted) < len([row for row in table.rows.values() if row.runs])


def test_full_disk_keeps_what_was_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(
            NasError, match=r"results\.jsonl: could not be written \(No space left on device\)"
        ) as raised:
            run_bundle(folder)
    assert raised.value.exit_code == 1
    del raised  # its traceback holds the file that is locked
    assert run_bundle(folder)["reused"] >= 4


def test_second_runner_is_refused(folder: Path) -> None:
    plan = read_plan(folder)
    first = Results(folder, plan, FakeTimer(1).describe(plan))
    with pytest.raises(InputError, match="another process measures this bundle"):
        run_bundle(folder)
    del first
    run_bundle(folder)


def test_operations_that_are_not_in_the_bundle(space: Space, folder: Path, tmp_path: Path) -> None:
    """Its space was changed since it was written."""
    run_bundle(folder)
    file = Path(space.path)
    file.write_text(file.read_text().replace("resolution: [64, 64]", "resolution: [96, 96]"))
    merge_bundle(folder, tmp_path / "table")  # the plan knows the resolution
    file.write_text(file.read_text().replace("kind: mb4d", "kind: mbconv"))
    replay = Replay(folder)
    others = [
        op
        for op in space_operations(load_space(space.path).at((64, 64)))
        if not replay.has(Chain.stack(op))
    ]
    assert {operation.spec.kind for operation in others} >= {"mbconv"}
    with pytest.raises(
        InputError,
        match=r"mbconv\(.* is missing, .* for other operations\. Fix: write another bundle",
    ):
        replay.prepare(Chain.stack(next(op for op in others if op.spec.kind == "mbconv")))
    with pytest.raises(
        InputError, match=r"the space .* has changed since it was written\. Fix: write another"
    ):
        merge_bundle(folder, tmp_path / "other")


def first_operation(folder: Path) -> str:
    return next(entry["file"] for entry in plan_of(folder)["files"] if entry["role"] == "operation")


def is_of(folder: Path, file: str) -> Callable[[Chain], bool]:
    chain = Chain.from_dict(json.loads((folder / file).read_text()))
    return lambda other: other == chain


def test_what_fails_once_is_measured(folder: Path) -> None:
    bad = is_of(folder, first_operation(folder))
    left = [True]
    FakeTimer.fails = staticmethod(lambda chain: bad(chain) and bool(left) and left.pop())
    counts = run_bundle(folder)
    assert not left and counts["failed"] == 0 and counts["measured"] == counts["files"]


def test_what_failed_is_tried_by_the_next_call(folder: Path, tmp_path: Path) -> None:
    FakeTimer.fails = staticmethod(is_of(folder, first_operation(folder)))
    first = run_bundle(folder)
    assert first["failed"] == 1
    FakeTimer.fails = staticmethod(lambda chain: False)
    second = run_bundle(folder)
    assert (second["measured"], second["failed"]) == (1, 0)
    table, report, _ = merge_bundle(folder, tmp_path / "table")
    assert not report.failed and not table.unsupported


def test_machine_that_runs_nothing_any_more_records_no_failure(folder: Path) -> None:
    """As a board whose runtime was changed in between: from some time on every file fails."""
    FakeTimer.fails = staticmethod(lambda chain: len(FakeTimer.measured) > 5)
    with pytest.raises(InputError, match="not even the empty file runs on this machine any more"):
        run_bundle(folder)
    assert not any("failed" in entry for entry in results(folder))
    FakeTimer.fails = staticmethod(lambda chain: False)
    counts = run_bundle(folder)
    assert counts["reused"] and counts["measured"] + counts["reused"] == counts["files"]


def test_ended_process_leaves_its_file_for_the_next_call(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = first_operation(folder)
    own = FakeTimer.measure

    def measure(self: FakeTimer, path: Path) -> dict[str, Any]:
        if path == folder / bad:
            raise Ended("the process that ran it was ended by signal 9")
        return own(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(FakeTimer, "measure", measure)
        counts = run_bundle(folder)
        assert (counts["interrupted"], counts["failed"]) == (1, 0)
    assert not any("failed" in entry for entry in results(folder))
    with pytest.raises(NasError, match=r"1 of .* files are not measured"):
        merge_bundle(folder, folder.parent / "table")
    assert run_bundle(folder)["measured"] == 1


def test_conversion_that_is_ended_leaves_the_bundle_incomplete(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = FakeConverter.prepare

    def prepare(self: FakeConverter, chain: Chain) -> Any:
        future: Any = own(self, chain)
        if chain.blocks[0].kind == "mb3d":
            future = type(future)()
            future.set_exception(Interrupted("worker: was ended by signal 9"))
        return future

    with monkeypatch.context() as patch:
        patch.setattr(FakeConverter, "prepare", prepare)
        with pytest.raises(NasError, match=r"not complete, \d+ files are missing.*signal 9"):
            write_bundle(space, "board", tmp_path / "bundle")
    assert not any("failed" in entry for entry in plan_of(tmp_path / "bundle")["files"])
    with pytest.raises(InputError, match="the bundle is not complete"):
        run_bundle(tmp_path / "bundle")
    done = write_bundle(space, "board", tmp_path / "bundle")
    assert 0 < done.kept < done.files and not done.failed
    assert run_bundle(tmp_path / "bundle")["failed"] == 0


@pytest.mark.parametrize("name", ["../x", "a b", "NUL", "", "x."])
def test_bundle_for_what_is_no_name_is_refused(space: Space, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"--device: is not a name for a device"):
        write_bundle(space, name, tmp_path / "bundle")


def test_writing_over_a_strangers_bundle_follows_no_link(space: Space, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_bundle(space, "board", folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("dear to me")
    (folder / "run.py").unlink()
    (folder / "run.py").symlink_to(elsewhere)
    write_bundle(space, "board", folder)
    assert elsewhere.read_text() == "dear to me" and not (folder / "run.py").is_symlink()
    for name in ("files", board.RUNNER):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(InputError, match=rf"{name}: is a link"):
            write_bundle(space, "board", folder)
        (folder / name).unlink()
        (tmp_path / name).rename(folder / name)


def test_readme_says_size_and_hours(folder: Path) -> None:
    text = (folder / "README.txt").read_text()
    assert re.search(r"take\s+\d+ MB, and measuring them about\s+\d+\.\d hours", text)
