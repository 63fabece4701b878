"""The commands as functions: the same options and errors as on the command line, and what they
return."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.cli.options import options_class, read_options, run_command
from nas.errors import InputError
from nas.options import options_of
from nas.testing.devices import FakeDevice

COMMANDS: dict[str, dict[str, Any]] = {
    "train": {"space": "emo"},
    "finetune": {"run": "emo_1m", "data": "digits"},
    "export": {"run": "emo_1m"},
    "profile": {"space": "emo", "device": "host"},
}
"""Functions of the API with keyword options, and what each must be given."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_value_is_refused_as_on_the_command_line(name: str) -> None:
    """Every number that has a range, one that is out of it."""
    function: Callable[..., Any] = getattr(nas, name)
    numbers = [
        each
        for each in options_of(options_class(name)).values()
        if each.about.bounds and not each.about.read
    ]
    assert numbers
    for option in numbers:
        given = {**COMMANDS[name], option.name: -7.5}
        with pytest.raises(InputError) as there:
            read_options(name, {key: str(value) for key, value in given.items()})
        with pytest.raises(InputError) as here:
            function(**given)
        assert str(here.value) == str(there.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_refused_with_the_nearest(name: str) -> None:
    option = list(options_of(options_class(name)))[-1]
    with pytest.raises(InputError, match=rf"{option}t: is not an option .*did you mean .*{option}"):
        getattr(nas, name)(**COMMANDS[name], **{f"{option}t": 1})


@pytest.mark.parametrize("name", COMMANDS)
def test_named_parameters_are_options(name: str) -> None:
    parameters = inspect.signature(getattr(nas, name)).parameters.values()
    named = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    assert named - {"recipe"} <= set(options_of(options_class(name)))


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(InputError, match=r"--limit 3: has no effect here \(requires --data"):
        nas.export("emo_1m", limit=3)
    with pytest.raises(
        InputError, match=r"--init-member emo_1m: has no effect here \(requires --init"
    ):
        nas.train("emo", init_member="emo_1m")
    with pytest.raises(InputError, match="--bundle does not take it"):
        nas.profile("emo", "host", bundle="here", retry=True)
    with pytest.raises(InputError, match="--bundle and --merge exclude each other"):
        nas.profile("emo", "host", bundle="here", merge="there")


def test_profile_gives_the_table(
    workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("nas.devices.host.device.Host", lambda threads: FakeDevice(threads))
    (profiled,) = nas.profile("small", "host", resolution=64)
    assert profiled.table is not None and profiled.report is not None
    assert (
        profiled.folder == Path("latency_tables/host")
        and len(profiled.table.rows) >= profiled.report.measured > 0
    )
    assert profiled.table.rows == nas.load_table("host").rows
    assert capsys.readouterr().out == "", "a function prints nothing"
    run_command("profile", space="small", device=["host"], resolution=64, json=True)
    again = json.loads(capsys.readouterr().out)
    assert again["reused"] == profiled.report.measured and again["measured"] == 0
    with pytest.raises(InputError, match="--space: is missing"):
        nas.profile(device="host")
    with pytest.raises(InputError, match="unknown device 'hots', did you mean 'host'"):
        nas.profile("small", "hots")


def test_profile_takes_figures_that_are_there(tmp_path: Path) -> None:
    table = nas.load_table("iphone12")
    members = {
        name: nas.load_space("efficientformer").sample(seed) for seed, name in enumerate("abcdefgh")
    }
    lines = ["network,latency_ms"]
    for name, arch in members.items():
        arch.save(tmp_path / f"{name}.yaml")
        lines.append(f"{tmp_path / name}.yaml,{2 * table.total_ms(arch)}")
    (tmp_path / "networks.csv").write_text("\n".join(lines) + "\n")
    (profiled,) = nas.profile(
        device="iphone12", calibrate=tmp_path / "networks.csv", out=tmp_path / "adjusted"
    )
    assert profiled.table is not None and profiled.folder == tmp_path / "adjusted"
    arch = members["a"]
    assert profiled.table.total_ms(arch) == pytest.approx(2 * table.total_ms(arch), rel=0.02)
    assert nas.load_table(tmp_path / "adjusted").total_ms(arch) == profiled.table.total_ms(arch)


def test_export_gives_the_files(tmp_path: Path, capsys: Any) -> None:
    nas.load_architecture("emo_1m").at(32, classes=3).save(tmp_path / "a.yaml")
    exported = nas.export(tmp_path / "a.yaml", to=["config", "torch"], out=tmp_path / "files")
    assert set(exported.targets) == {"config", "torch"} and exported.folder == tmp_path / "files"
    assert all((exported.folder / entry["file"]).is_file() for entry in exported.targets.values())
    assert capsys.readouterr().out == "", "a function prints nothing"
    assert nas.export(tmp_path / "a.yaml", to="config,torch", out=tmp_path / "files").skipped == (
        "config",
        "torch",
    )
    with pytest.raises(InputError, match="--to onx: unknown export target, did you mean 'onnx'"):
        nas.export("emo_1m", to="onx")


@pytest.mark.slow(seconds=30)
def test_train_then_search_then_finetune_then_report(
    workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The whole job from Python, on a small space and few digits."""
    monkeypatch.setattr("nas.devices.host.device.Host", lambda threads: FakeDevice(threads))
    nas.profile("small", "host", resolution=32, classes=10)
    settings = {"epochs": 1, "batch": 50, "limit": 120, "held_out": 40}
    trained = nas.train("small", resolution=32, score_widths=1, out="supernet", **settings)
    assert (
        trained is not None and trained.folder == Path("supernet") and trained.scores.images == 40
    )
    assert nas.load_scores(trained.folder).fingerprint == trained.scores.fingerprint
    run_command(
        "search",
        space="small",
        device="host",
        supernet="supernet",
        resolution=32,
        out="run",
        json=True,
    )
    finetuned = nas.finetune("run", "digits", new_head=True, **settings)
    assert (
        finetuned.folder == Path("run/finetune") and finetuned.description["recipe"]["epochs"] == 1
    )
    capsys.readouterr()
    report = nas.report("run")
    assert (
        report.page == Path("run/report.html") and report.page.is_file() and len(report.runs) == 1
    )
    assert capsys.readouterr().out == "", "a function prints nothing"
    with pytest.raises(InputError, match="each run once"):
        nas.report("run", "run")
    with pytest.raises(InputError, match="Missing argument 'RUN'"):
        nas.report()
