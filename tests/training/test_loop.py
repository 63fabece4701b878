"""The loop: it learns, resumes to the bit, splits a batch without changing it, and stops where it
must."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from nas.data import ImageData
from nas.errors import InputError, NasError
from nas.training import step as stepping
from nas.training.batches import shares
from nas.training.loop import train
from nas.training.metrics import Progress
from nas.training.settings import Settings
from nas.training.state import TrainingFolder

OFTEN: dict[str, Any] = {"save_every": 0, "report_every": 5}


def settled(**options: Any) -> Settings:
    return Settings(**{"epochs": 4, "batch": 20, "warmup": 0.1, "seed": 3, **options})


class Killed(BaseException):
    pass


def values(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def assert_same(ours: Path, theirs: Path) -> None:
    left = values(ours)
    right = values(theirs)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    with safe_open(ours, framework="pt") as one, safe_open(theirs, framework="pt") as other:
        assert one.metadata() == other.metadata()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "settings",
    [
        settled(ema=0.99),
        settled(precision="fp16", ema=0.9),
        settled(precision="bf16", accumulate=3),
        settled(channels_last=False),
    ],
)
def test_a_killed_training_ends_with_the_same_state(
    toy: Any, images: ImageData, tmp_path: Path, settings: Settings
) -> None:
    whole = TrainingFolder(tmp_path / "whole")
    cut = TrainingFolder(tmp_path / "cut")
    train(toy(), images, settings, whole, **OFTEN)

    def kill(progress: Progress) -> None:
        if progress.step == 10:
            raise Killed

    with pytest.raises(Killed):
        train(toy(), images, settings, cut, report=kill, **OFTEN)
    task = toy()
    torch.manual_seed(99)  # what the rest of the program draws does not matter
    train(task, images, settings, cut, **OFTEN)
    assert task.began == [9], "the state of step 10 had not been saved"
    assert_same(cut.state, whole.state)
    assert [row["step"] for row in rows(cut.metrics)] == ["5", "10", "15", "20"]


def test_it_learns_and_tells(toy: Any, images: ImageData, folder: TrainingFolder) -> None:
    seen: list[Progress] = []
    assert train(toy(), images, settled(epochs=20), folder, report=seen.append, **OFTEN) is None
    assert seen[-1].loss < 0.7 * seen[0].loss and seen[-1].accuracy > 60
    assert [float(row["loss"]) for row in rows(folder.metrics)] == [each.loss for each in seen]
    assert rows(folder.metrics)[1]["double"] == "20.0"


def test_event_files_have_the_metrics_and_forget_lost_steps(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def kill(progress: Progress) -> None:
        if progress.step == 10:
            raise Killed

    with pytest.raises(Killed):
        train(toy(), images, settled(), folder, report=kill, **OFTEN | {"save_every": 1000})
    train(toy(), images, settled(), folder, **OFTEN)
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    assert {"loss", "accuracy", "learning_rate", "images_per_second", "double"} <= set(
        events.Tags()["scalars"]
    )
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in logged] == [5, 10, 15, 20]
    wanted = [float(row["loss"]) for row in rows(folder.metrics)]
    assert [value for _, value in logged] == pytest.approx(wanted)


@pytest.mark.parametrize("batch", [20, 33])
def test_micro_batches_follow_the_gradient_of_the_whole_batch(
    toy: Any, images: ImageData, tmp_path: Path, batch: int
) -> None:
    """Without batch norm, which sees a micro-batch, nothing else may change, however uneven the
    parts are."""
    whole = toy(norm=False)
    parts = toy(norm=False)
    train(
        whole, images, settled(batch=batch, epochs=2), TrainingFolder(tmp_path / "whole"), **OFTEN
    )
    train(
        parts,
        images,
        settled(batch=batch, epochs=2, accumulate=3),
        TrainingFolder(tmp_path / "parts"),
        **OFTEN,
    )
    for ours, theirs in zip(parts.layers.parameters(), whole.layers.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "accumulate", "count"), [(16, 1, 2), (17, 3, 2), (7, 1, 7), (64, 5, 3)]
)
def test_shares_are_a_partition_and_a_part_is_the_same_for_any_number_of_processes(
    batch: int, accumulate: int, count: int
) -> None:
    all_ = [list(shares(batch, accumulate, index, count)) for index in range(count)]
    whole = list(shares(batch, accumulate, 0, 1))
    for part in range(accumulate):
        mine = [all_[index][part] for index in range(count)]
        assert [stop for _, stop in mine[:-1]] == [start for start, _ in mine[1:]]
        assert (mine[0][0], mine[-1][1]) == whole[part]
    sizes = [stop - start for process in all_ for start, stop in process]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == batch


def test_the_moving_average_is_that_of_weights_and_statistics(
    toy: Any, images: ImageData, folder: TrainingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toy()
    seen = []
    real = stepping.AveragedModel.update_parameters

    def noted(self: Any, module: nn.Module) -> None:
        seen.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        real(self, module)

    monkeypatch.setattr(stepping.AveragedModel, "update_parameters", noted)
    averaged = train(task, images, settled(ema=0.5, epochs=2), folder, **OFTEN)
    assert averaged is not None and len(seen) == 10
    wanted = {name: tensor.double() for name, tensor in seen[0].items()}
    for n, state in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        wanted = {
            name: decay * wanted[name] + (1 - decay) * state[name].double() for name in wanted
        }
    found = averaged.state_dict()
    assert int(found["1.num_batches_tracked"]) == 10
    for name in ("0.weight", "1.running_mean", "1.running_var", "5.bias"):
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    def spoil(step: int, loss: Tensor) -> Tensor:
        return loss * float("inf") if step == 7 else loss

    with pytest.raises(
        NasError, match=r"the loss is inf at step 8\. The last saved state is unchanged"
    ):
        train(toy(spoil=spoil), images, settled(), folder, **OFTEN)
    with safe_open(folder.state, framework="pt") as file:
        assert file.metadata()["step"] == "7"
    assert all(tensor.isfinite().all() for tensor in values(folder.state).values())


def test_weights_that_are_no_numbers_are_not_saved(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    """The loss is finite, its gradient is not."""
    spoil = lambda step, loss: loss + (0 * loss).sqrt() if step == 7 else loss  # noqa: E731
    with pytest.raises(
        NasError, match=r"a weight is inf or NaN at step 8\. The last saved state is unchanged"
    ):
        train(toy(spoil=spoil), images, settled(), folder, **OFTEN)
    with safe_open(folder.state, framework="pt") as file:
        assert file.metadata()["step"] == "7"


def test_a_step_that_the_scaler_leaves_out_changes_nothing(
    toy: Any, images: ImageData, tmp_path: Path
) -> None:
    """Neither weights nor statistics, though the images themselves overflow."""
    task = toy()
    folder = TrainingFolder(tmp_path / "out")
    before = []

    def spoil(step: int, loss: Tensor) -> Tensor:
        before.append(
            {name: tensor.clone() for name, tensor in values(folder.state).items()} if step else {}
        )
        return loss * float("inf") if step == 5 else loss

    task = toy(spoil=spoil)
    train(task, images, settled(precision="fp16", epochs=2), folder, save_every=0, report_every=1)
    assert len(before) == 10
    kept = {name for name in before[5] if name.startswith("module.")}
    assert kept and all(torch.equal(before[5][name], before[6][name]) for name in kept)
    assert any(not torch.equal(before[6][name], before[7][name]) for name in kept)
    losses = [row["loss"] for row in rows(folder.metrics)]
    assert losses[5] == "" and "" not in losses[:5] + losses[6:]


def test_many_steps_in_a_row_that_the_scaler_leaves_out_stop(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    def spoil(step: int, loss: Tensor) -> Tensor:
        return loss * float("nan") if step >= 4 else loss

    with pytest.raises(
        NasError,
        match=r"gradients overflowed \(inf or NaN\) in 20 consecutive steps, the last at step 24",
    ):
        train(toy(spoil=spoil), images, settled(precision="fp16", epochs=20), folder, **OFTEN)
    assert all(tensor.isfinite().all() for tensor in values(folder.state).values())


class Allocator:
    """Fails as an allocator does above a number of images."""

    def __init__(self, limit: int, error: BaseException) -> None:
        self.limit = limit
        self.error = error

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > self.limit:
            raise self.error


CPU_ERROR = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)


@pytest.mark.parametrize(
    "error", [CPU_ERROR, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")]
)
@pytest.mark.parametrize(
    ("limit", "settings", "message"),
    [
        (
            7,
            settled(),
            r"out of memory with 20 images at once \(5 fit\)\. Fix: --batch 5, or --accumulate 4 to"
            r" keep the "
            r"batch of 20",
        ),
        (
            1,
            settled(precision="fp16"),
            r"with 20 images at once \(1 fit\)\. Fix: --batch 1, or --accumulate 20",
        ),
        (
            4,
            settled(accumulate=2),
            r"with 10 images at once \(2 fit\)\. Fix: --batch 2, or --accumulate 10 ",
        ),
        (0, settled(), r"out of memory with a single image"),
    ],
)
def test_out_of_memory_names_the_batch_that_fits(
    toy: Any,
    images: ImageData,
    folder: TrainingFolder,
    limit: int,
    settings: Settings,
    message: str,
    error: BaseException,
) -> None:
    task = toy()
    task.module.register_forward_pre_hook(Allocator(limit, error))
    with pytest.raises(NasError, match=message) as caught:
        train(task, images, settings, folder, **OFTEN)
    assert "\n" not in str(caught.value) and not isinstance(caught.value, InputError)
    fitting = int(message.split("accumulate ")[1].split()[0]) if "accumulate" in message else None
    if fitting:
        train(task, images, replace(settings, accumulate=fitting, epochs=1), folder, **OFTEN)


def test_other_errors_are_not_taken_for_lack_of_memory(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    task = toy()
    task.module.register_forward_pre_hook(Allocator(0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(task, images, settled(), folder, **OFTEN)


def test_a_batch_that_cannot_be_cut_is_refused(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    with pytest.raises(
        InputError,
        match=r"batches of 20 images cannot be shared by 1 processes in 21 micro-batches",
    ):
        train(toy(), images, settled(accumulate=21), folder, **OFTEN)


def single_positions(task: Any) -> Any:
    """The toy with maps of one position, as the last ones of 32x32 images."""
    task.layers[0] = nn.Conv2d(3, 8, 16, 16, bias=False)
    return task


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"batch": 1}, r"Fix: --batch 2$"),
        ({"batch": 20, "accumulate": 20}, r"Fix: --batch 50 or --accumulate 10$"),
        ({"batch": 20, "accumulate": 15}, r"Fix: --batch 34 or --accumulate 10$"),
        ({"batch": 60, "accumulate": 60}, r"cannot be shared"),
    ],
)
def test_single_images_are_refused_where_a_batch_norm_has_one_value(
    toy: Any, images: ImageData, folder: TrainingFolder, options: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(InputError, match=remedy) as caught:
        train(single_positions(toy()), images, settled(**options), folder, **OFTEN)
    words = str(caught.value).partition("Fix: ")[2].split(" or ")
    # Every remedy works.
    for option, value in map(str.split, words if remedy.startswith("Fix") else ()):
        changed = settled(epochs=1, **{**options, option.removeprefix("--"): int(value)})
        train(single_positions(toy()), images, changed, TrainingFolder(folder.root / option))


def test_single_images_train_where_maps_are_larger(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    task = toy()
    norm = task.layers[1]
    seen: list[Tensor] = []
    task.before_step = lambda step: seen.append(norm.running_mean.clone())
    train(task, images, settled(epochs=1, batch=1), folder)
    assert not seen[0].any(), "the check before the first step changed a statistic"


def test_the_state_of_another_network_is_refused(
    toy: Any, images: ImageData, folder: TrainingFolder
) -> None:
    train(toy(), images, settled(), folder, **OFTEN)
    with pytest.raises(InputError, match=r"state\.safetensors: \d+ tensors do not fit the network"):
        train(toy(norm=False), images, settled(), folder, **OFTEN)
    with pytest.raises(
        InputError, match=r"state\.safetensors: \d+ tensors do not fit the network, .*first"
    ):
        train(toy(), images, settled(ema=0.9), folder, **OFTEN)
