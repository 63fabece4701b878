"""Stops of a training: signals save the state, the lock keeps a second one out, rows continue."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from test_loop import Killed, assert_same, rows, settled, values

from nas.data import ImageData
from nas.errors import NasError
from nas.signals import STOPPING, Stopped
from nas.training.loop import train
from nas.training.metrics import Progress
from nas.training.state import State, TrainingFolder, load_best

NEVER: dict[str, Any] = {"save_every": 1e9, "report_every": 5}


def saved_step(folder: TrainingFolder) -> int:
    with safe_open(folder.state, framework="pt") as file:
        return int(file.metadata()["step"])


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("at", [3, 7, 18, 19])
def test_a_signal_saves_the_state_of_its_step(
    toy: Any, images: ImageData, tmp_path: Path, number: signal.Signals, at: int
) -> None:
    def signalled(step: int, loss: torch.Tensor) -> torch.Tensor:
        if step == at:
            os.kill(os.getpid(), number)
        return loss

    whole = TrainingFolder(tmp_path / "whole")
    cut = TrainingFolder(tmp_path / "cut")
    train(toy(), images, settled(), whole, **NEVER)
    with pytest.raises(Stopped, match=rf"step {at + 1} of 20 is saved in ") as caught:
        train(toy(spoil=signalled), images, settled(), cut, **NEVER)
    assert caught.value.number == number and saved_step(cut) == at + 1
    train(toy(), images, settled(), cut, **NEVER)
    assert_same(cut.state, whole.state)
    told = [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows(cut.metrics)]
    expected = [
        {k: v for k, v in row.items() if k != "images_per_second"} for row in rows(whole.metrics)
    ]
    assert told == expected


def test_a_signal_after_the_last_step_stops_what_follows(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    def signalled(progress: Progress) -> None:
        if progress.step == progress.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"step 20 of 20 is saved in "):
        train(toy(), images, settled(), folder, report=signalled, **NEVER)
    assert saved_step(folder) == 20


def test_a_second_signal_stops_at_once(toy: Any, images: ImageData, folder: TrainingFolder) -> None:
    def signalled(step: int, loss: torch.Tensor) -> torch.Tensor:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    with pytest.raises(Stopped):
        train(toy(spoil=signalled), images, settled(), folder, **NEVER)
    assert not folder.state.exists()


def test_a_slow_disk_is_written_less_often(
    toy: Any, images: ImageData, folder: TrainingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving takes at most a twentieth of the time, whatever `save_every` asks for."""
    clock = [0.0]
    saves: list[float] = []

    def monotonic() -> float:
        clock[0] += 0.5
        return clock[0]

    def save(self: Any, path: Path, more: Any) -> None:
        saves.append(clock[0])
        clock[0] += 1.0

    monkeypatch.setattr(time, "monotonic", monotonic)
    monkeypatch.setattr(State, "save", save)
    train(toy(), images, settled(epochs=40), folder, save_every=2.0, report_every=5)
    gaps = [later - earlier for earlier, later in pairwise(saves)]
    # The last step is saved in any case.
    assert len(saves) > 3 and all(gap >= 1.0 / 0.05 for gap in gaps[:-1])


def test_a_second_training_is_refused(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path / "out")
    folder.root.mkdir()
    # Another process has a lock object of its own.
    with (
        FileLock(folder.root / ".lock"),
        pytest.raises(NasError, match=r"out: another nas process is training in this folder"),
        folder.locked(),
    ):
        pytest.fail("both have the lock")
    with folder.locked(), folder.locked():
        pass
    with folder.locked():
        (folder.root / "kept").touch()
    assert (folder.root / "kept").exists()


def test_a_failed_training_leaves_no_empty_folder(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path / "new" / "out")
    with pytest.raises(ValueError, match="bad"), folder.locked():
        raise ValueError("bad")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with TrainingFolder(tmp_path / "mine").locked():
        pass
    assert (tmp_path / "mine").is_dir(), "the user made it"


class Examined:
    """A task whose held-out accuracy is given for each epoch."""

    def __init__(self, toy: Any, accuracies: list[float]) -> None:
        self.task = toy()
        self.left = list(accuracies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    keeps_best = True

    def evaluate(self, module: torch.nn.Module) -> float:
        return self.left.pop(0)


def test_the_best_epochs_weights_are_kept(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    """Of several equal ones the last; the rows of the epochs have the accuracies."""
    weights: list[torch.Tensor] = []
    task = Examined(toy, [50.0, 75.0, 75.0, 60.0])

    def keep(progress: Progress) -> None:
        if progress.held_out is not None:
            weights.append(next(task.module.parameters()).detach().clone())

    train(task, images, settled(), folder, report=keep, **NEVER)
    best = toy()
    found = load_best(folder.best, best.module)
    assert (found.epoch, found.accuracy) == (3, 75.0)
    assert torch.equal(next(best.module.parameters()), weights[2])
    told = [row["held_out"] for row in rows(folder.metrics)]
    assert [float(each) for each in told if each] == [50.0, 75.0, 75.0, 60.0]


def test_another_trainings_best_epoch_is_not_kept(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    """A killed training without a saved state may be started again with other options."""
    folder.root.mkdir()
    folder.best.write_bytes(b"of another training")
    train(toy(), images, settled(validate_every=0), folder, **NEVER)
    assert not folder.best.exists()


@pytest.mark.parametrize(("every", "evaluated"), [(0, 0), (1, 4), (3, 2), (9, 1)])
def test_epochs_are_evaluated_at_an_interval_and_at_the_end(
    toy: Any, images: ImageData, folder: TrainingFolder, every: int, evaluated: int
) -> None:
    task = Examined(toy, [1.0] * 9)
    train(task, images, settled(validate_every=every), folder, **NEVER)
    assert 9 - len(task.left) == evaluated


def test_a_resumed_training_keeps_an_earlier_best(
    toy: Any, images: ImageData, tmp_path: Path
) -> None:
    accuracies = [50.0, 75.0, 70.0, 60.0]
    whole = TrainingFolder(tmp_path / "whole")
    cut = TrainingFolder(tmp_path / "cut")
    train(Examined(toy, accuracies), images, settled(), whole, **NEVER)

    def kill(progress: Progress) -> None:
        if progress.step == 15:
            raise Killed

    often = {"save_every": 0, "report_every": 5}
    with pytest.raises(Killed):
        train(Examined(toy, accuracies), images, settled(), cut, report=kill, **often)
    train(Examined(toy, accuracies[2:]), images, settled(), cut, **often)
    ours, theirs = values(cut.best), values(whole.best)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert_same(cut.state, whole.state)


def test_metrics_of_an_older_version_get_the_new_column(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    folder.root.mkdir(parents=True)
    folder.metrics.write_text(
        "step,steps,epoch,loss,accuracy,learning_rate,images_per_second,double\n"
        "0,20,0.0,1.5,20.0,0.1,90.0,0.0\n"
    )
    train(toy(), images, settled(), folder, **NEVER)
    table = rows(folder.metrics)
    assert table[0]["held_out"] == "" and table[0]["double"] == "0.0"
    assert [row["step"] for row in table] == ["0", "5", "10", "15", "20"]
