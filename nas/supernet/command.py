"""`nas.train` and `nas.score`: train a supernet, and score each move on it.

The commands `nas train` and `nas score` call `run` and `run_score`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.accuracy import RecordedScores
from nas.data import Splits, is_digits, is_scenes, load_data
from nas.option_values import applies, make, words
from nas.space import Space, load_space
from nas.space.sizes import Sizes, size_text
from nas.supernet.checkpoint import Folder, open_folder
from nas.supernet.evaluate import training_splits
from nas.supernet.options import ScoreOptions, TrainOptions
from nas.supernet.score import score as score_moves
from nas.supernet.train import train as train_supernet
from nas.supernet.warm_start import Start, load_start
from nas.tasks import TASKS, Task, task_of
from nas.training.distributed import leave, processes
from nas.training.metrics import Progress
from nas.training.settings import settle, settle_store


@dataclass(frozen=True)
class Trained:
    """A trained supernet and its scores.

    Attributes:
        folder: folder of the training, which `nas.load_scores` and `nas search --supernet` take.
        scores: cost of each move on the held-out images.
        data: the splits it was trained with.
    """

    folder: Path
    scores: RecordedScores
    data: Splits = field(repr=False)


def train(space: str | Path, data: str | Path = "digits", **options: Any) -> Trained | None:
    """Train a supernet and measure the cost of each move; the same call resumes a stopped training.

    Args:
        space: a space by name, or its YAML file.
        data: digits, an image folder, parquet files, or a hub name.
        options: the other options of `nas train`, with `_` for `-`: `epochs=5, learning_rate=1e-3,
            out="runs/a"`.

    Returns:
        The supernet's folder and scores; None in all processes of a distributed training but the
        main one.

    Raises:
        InputError: for an option that is unknown, out of range or without effect, and for bad data
            or a bad space.
        NasError: when the loss is NaN or infinite, or memory ran out. Finished work is kept.
    """
    return run(make(TrainOptions, {"space": space, "data": data, **options}))


def run(
    options: TrainOptions,
    note: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Progress], None] = lambda row: None,
    on_score: Callable[[int, int], None] = lambda done, total: None,
) -> Trained | None:
    """Train and score as the options of `nas train` say; see `train`.

    Args:
        options: of the command.
        note: called with lines for the user.
        on_step: called now and then while training.
        on_score: called with the number of scored moves, and the number of all.
    """
    whole = load_space(options.space)
    task = TASKS["segmentation"] if options.segment else task_of(whole.heads[0])
    recipe = settle(options.recipe, options, options.data, task)
    applies(options, mixup=recipe.mixup, cutmix=recipe.cutmix, mix=recipe.mix)
    sized = Sizes(options.sizes.resolution or _own_size(options.data)).apply(whole)
    folder = (
        options.out
        or f"runs/supernet-{sized.name}-{Path(options.data).name}-{size_text(sized.resolution)}"
    )
    split = options.split
    splits = load_data(
        options.data,
        sized.resolution,
        held_out=split.held_out,
        limit=split.limit,
        seed=recipe.seed,
        background=split.background,
        store=settle_store(split.store, Folder(Path(folder)).description),
        masks=task.has_maps,
    )
    space = _with_head(sized, task, len(splits.train.classes), options.sizes.heads)
    note(f"data     {splits.train.source}")
    note(f"         {splits.held_out.source}")
    note(f"out      {folder} (the same command resumes it)")
    # Scoring too: it appends to files of the folder.
    with Folder(Path(folder)).locked(processes().main):
        trained = train_supernet(
            space,
            splits.train,
            recipe,
            folder,
            held_out=splits.held_out,
            start=_start(options, space, splits.train.classes, note),
            command=words("train", options),
            report=on_step,
            workers=options.workers,
        )
        scores = score_moves(
            trained,
            splits,
            images=options.score_images,
            widths=options.score_widths,
            bf16=recipe.precision == "bf16",
            report=lambda done, total, row: on_score(done, total),
            note=lambda line: note(f"scores   {line}"),
        )
    leave()
    return Trained(Path(folder), scores, splits) if scores else None


def _own_size(data: str) -> tuple[int, int] | None:
    """Return the size at which data of our own is used; None for other data."""
    # Digits have 8x8 pixels. 32x32 is the smallest size that networks of stride 32 take.
    if is_digits(data):
        return (32, 32)
    return (64, 64) if is_scenes(data) else None


def _with_head(space: Space, task: Task, classes: int, asked: Sequence[Mapping[str, int]]) -> Space:
    """Return the space for a task; heads of its own that are of the task are kept.

    Args:
        space: at its resolution.
        task: what is trained.
        classes: of the data.
        asked: hyperparameters of each head that is asked for; one without any for the default.
    """
    if task.has(space.heads[0]) and not any(asked):
        return space.at(classes=classes)
    return space.with_head(*(task.head(space.heads[0], classes, **each) for each in asked))


def score(supernet: str | Path, data: str | Path, **options: Any) -> Trained | None:
    """Measure the cost of each move on a trained supernet; the same call resumes a stopped scoring.

    Args:
        supernet: folder of a finished training.
        data: the images that it was trained on, as `train` takes them.
        options: the other options of `nas score`: `images=5000, batch=64`.

    Returns:
        The supernet's folder and scores; None in all processes of a distributed scoring but the
        main one.

    Raises:
        InputError: for an option that is unknown or out of range, for a folder without a training,
            and for other images than those of the training.
        NasError: when the training is not finished, or memory ran out. Finished work is kept.
    """
    return run_score(make(ScoreOptions, {"supernet": supernet, "data": data, **options}))


def run_score(
    options: ScoreOptions,
    note: Callable[[str], None] = lambda line: None,
    on_score: Callable[[int, int], None] = lambda done, total: None,
) -> Trained | None:
    """Score as the options of `nas score` say; see `score`.

    Args:
        options: of the command.
        note: called with lines for the user.
        on_score: called with the number of scored moves, and the number of all.
    """
    with processes().agreed():
        folder = Folder(Path(options.supernet))
        _, description, _ = open_folder(folder.root)
        splits = training_splits(folder.root, options.data)
    note(f"data     {splits.held_out.source}")
    note(f"out      {folder.root} (the same command resumes it)")
    with folder.locked(processes().main):
        scores = score_moves(
            folder,
            splits,
            images=options.images,
            widths=options.widths,
            bf16=description["recipe"]["precision"] == "bf16",
            batch=options.batch,
            report=lambda done, total, row: on_score(done, total),
            note=lambda line: note(f"scores   {line}"),
        )
    leave()
    return Trained(folder.root, scores, splits) if scores else None


def _start(
    options: TrainOptions, space: Space, classes: Sequence[str], note: Callable[[str], None]
) -> Start | None:
    if options.init is None:
        return None
    start = load_start(options.init, space, options.init_member, classes)
    note(f"init     {start.file}: {start.network.architecture.name} ({start.layout})")
    for line in start.notes:
        note(f"warning: {start.file}: {line}")
    return start
