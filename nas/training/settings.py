"""Settings of every training, whatever it trains. Imports no torch.

The recipes of supernets and of fine-tunings inherit them; their commands call `settle`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from nas.errors import InputError
from nas.extras import need
from nas.files import YamlFile
from nas.option_values import check
from nas.options import ANY, LARGEST_SEED, Options, option, options_of
from nas.quantities import colour
from nas.training.augmentation import Augment, policy

if TYPE_CHECKING:
    from nas.tasks import Task

Precision = Literal["fp32", "bf16", "fp16"]
Store = Literal["auto", "memory", "stream"]
"""A store by name, as `nas.data.images.AskedStore`, which would import NumPy for `nas --help`."""
_LAUNCHED_PRECISION = "ACCELERATE_MIXED_PRECISION"
_LAUNCHED = {
    "ACCELERATE_DYNAMO_BACKEND": "--compile",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--accumulate",
    "ACCELERATE_GRADIENT_CLIPPING": "--clip-norm",
    "ACCELERATE_USE_DEEPSPEED": "",
    "ACCELERATE_USE_FSDP": "",
    "ACCELERATE_USE_MEGATRON_LM": "",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "",
}
"""What `accelerate launch` puts into the environment and no training here follows, with the option
that does the same."""
_UNASKED = ("", "no", "none", "false", "0")
"""Values by which `accelerate launch` says that nothing was asked for."""

DATA_HELP = (
    "Images: digits, an image folder, parquet files, or a name on the Hugging Face hub; for"
    " segmentation digit-scenes, a folder of images with masks, or parquet files with both."
)
"""Help of --data in every command."""
WORKERS_HELP = (
    "Worker processes that decode and augment images, per process of the training; 0 does it in the"
    " training's own process. The light augmentation of images in memory needs none."
)
"""Help of --workers in every command."""


@dataclass(frozen=True)
class SplitOptions:
    """The options that say which images of a data set are used, and how they are read."""

    held_out: float = option(
        0.1,
        help=(
            "Share (below 1) or number of training images that are held out to measure accuracy."
        ),
        above=0,
        at_most=1_000_000_000,
    )
    limit: int | None = option(
        None,
        help="Maximum number of images of each split.",
        at_least=2,
        at_most=1_000_000_000,
        shown="all",
    )
    background: str = option(
        "white",
        help="Colour behind transparent pixels: white, grey, black or #rrggbb.",
        read=colour,
        metavar="COLOUR",
    )
    store: Store = option(
        "auto",
        help=(
            "Where images are kept: memory (decoded once into a memory-mapped file), stream (decoded"
            " by workers in each epoch, nothing on the disk), or auto (memory where the decoded"
            " images take at most half of the machine's memory)."
        ),
    )


@dataclass(frozen=True)
class Settings:
    """The settings of the training loop, which the recipes inherit.

    Batch norms see one micro-batch at a time. `compile` does not compile a supernet's narrowed
    blocks.
    """

    epochs: int = option(20, help="Passes over the training images.", at_least=1, at_most=1_000_000)
    batch: int = option(
        64,
        help="Images per step, over all processes and micro-batches.",
        at_least=1,
        at_most=1_000_000,
        shown="64; 16 for segmentation",
    )
    learning_rate: float = option(
        1e-3,
        help="Peak learning rate of the weights; it rises linearly, then follows a cosine to 0.",
        above=0,
        at_most=1000,
    )
    warmup: float = option(
        0.05, help="Share of the training in which the learning rates rise.", at_least=0, below=1
    )
    optimizer: Literal["adamw", "lamb", "lion", "sgd"] = option(
        "adamw", help="Optimizer: adamw, lamb, lion, or sgd with a Nesterov momentum of 0.9."
    )
    weight_decay: float = option(
        0.05,
        help="Weight decay of the optimizer, for matrices and kernels only.",
        at_least=0,
        at_most=1000,
    )
    clip_norm: float = option(
        0.0,
        help="Maximum norm of all gradients together, to which they are scaled down; 0 turns it off.",
        at_least=0,
        at_most=1e6,
    )
    loss: Literal["ce", "bce"] = option(
        "ce",
        help="Loss with the labels: ce (cross-entropy) or bce (a binary cross-entropy per class).",
    )
    label_smoothing: float = option(
        0.1,
        help="Label smoothing of the loss with the data's labels.",
        at_least=0,
        below=1,
    )
    drop_path: float = option(
        0.0,
        help=(
            "Probability that an image skips a residual branch of the last block; it rises linearly"
            " with depth."
        ),
        at_least=0,
        below=1,
    )
    augment: Augment = option(
        "light",
        help=(
            "Augmentation: light (shift and flip), standard (random crop, flip, colour, erasing, and"
            " some mixing), or strong (small random crops, RandAugment, erasing, mixing of all"
            " batches and three repeats, as DeiT). The last two need torchvision."
        ),
    )
    repeats: int = option(
        1,
        help=(
            "Times that an image is in an epoch, each time augmented anew (repeated augmentation);"
            " an epoch keeps its length and has fewer images."
        ),
        at_least=1,
        at_most=100,
        shown="1; 3 with --augment strong",
    )
    mixup: float = option(
        0.0,
        help="Alpha of the Beta distribution of mixup; 0 turns mixup off.",
        at_least=0,
        at_most=1000,
        shown="0; 0.2 with --augment standard, 0.8 with strong",
    )
    cutmix: float = option(
        0.0,
        help="Alpha of the Beta distribution of cutmix; 0 turns cutmix off.",
        at_least=0,
        at_most=1000,
        shown="0; 1 with --augment standard or strong",
    )
    mix: float = option(
        0.5,
        help="Share of the batches that are mixed.",
        at_least=0,
        at_most=1,
        shown="0.5; 0.25 with --augment standard, 1 with strong",
    )
    switch: float = option(
        0.5,
        help="Share of mixed batches that use cutmix instead of mixup, where both are on.",
        at_least=0,
        at_most=1,
        requires={"mixup": ANY, "cutmix": ANY, "mix": ANY},
    )
    flip: bool = option(True, help="Mirror images at random.", shown="on for all data but digits")
    seed: int = option(
        0,
        help="Seed of new weights, batches, augmentation and random choices.",
        at_least=0,
        at_most=LARGEST_SEED,
    )
    precision: Precision = option(
        "fp32",
        help=(
            "Precision of the forward pass: fp32, or autocast to bf16 or to fp16 (with a gradient"
            " scaler)."
        ),
    )
    accumulate: int = option(
        1,
        help="Micro-batches that a step's batch is cut into, to save memory.",
        at_least=1,
        at_most=1_000_000,
    )
    channels_last: bool = option(
        True, help="Keep weights and images in the channels-last memory format."
    )
    sync_bn: bool = option(
        True, help="Take batch-norm statistics over the images of all processes."
    )
    checkpointing: bool = option(
        False,
        help="Compute each operation again in the backward pass, to save memory at a third more time.",
    )
    compile: bool = option(False, help="Compile each block with torch.compile.")
    ema: float = option(
        0.0,
        help="Decay of the exponential moving average of the weights, such as 0.999; 0 turns it off.",
        at_least=0,
        below=1,
    )
    validate_every: int = option(
        1,
        help="Epochs between two evaluations on the held-out images; 0 evaluates at the end only.",
        at_least=0,
        at_most=1_000_000,
    )

    def __post_init__(self) -> None:
        check(self)

    def to_dict(self, masks: bool = False) -> dict[str, Any]:
        """Return all settings, with the numbers that the augmentation stands for.

        Args:
            masks: whether the images have masks, which have augmentations of their own.
        """
        return asdict(self) | {"augmentation": policy(self.augment, masks).image.to_dict()}


Recipe = TypeVar("Recipe", bound=Settings)


def settle(recipe: Recipe, options: Options, data: str, task: Task | None = None) -> Recipe:
    """Return a command's recipe with the defaults that depend on task, data and launcher.

    A task may have other defaults, and settings that cannot be changed. A stronger --augment sets
    options of mixing and the repeats, unless they are given. Digits are not mirrored unless --flip
    is given: a mirrored 2 is not a digit. `accelerate launch --mixed_precision` puts its precision
    into the environment, which is used where --precision was not given. Other wishes of that launcher
    are refused.

    Args:
        recipe: of the command.
        options: of the command; they know which options were given.
        data: the images by name.
        task: what is trained; classification by default.

    Raises:
        InputError: where the launcher asks for another precision than --precision, or for an
            unknown one.
        MissingExtra: where the augmentation needs torchvision, which is not installed.
    """
    from nas.data import is_digits, is_scenes
    from nas.tasks import TASKS

    task = task or TASKS["classification"]
    usuals = {name: value for name, value in task.defaults.items() if name not in options.given}
    recipe = replace(recipe, **usuals)
    check_task(recipe, task, options)
    if recipe.augment != "light":
        need(f"--augment {recipe.augment}", "vision", "torchvision")
    chosen = {
        name: value
        for name, value in policy(recipe.augment, task.has_maps).options.items()
        if name not in options.given
    }
    recipe = replace(recipe, **chosen)  # type: ignore[arg-type]
    _check_mixing(recipe, options)
    _check_launched(options)

    flip = recipe.flip if "flip" in options.given else not (is_digits(data) or is_scenes(data))
    precision = recipe.precision
    launched = os.environ.get(_LAUNCHED_PRECISION, "no")
    if launched not in ("no", "", precision):
        asked = f"{_LAUNCHED_PRECISION}={launched}"
        if launched not in get_args(Precision):
            raise InputError(
                f"{asked}: is unknown here (expected no, fp16 or bf16). Fix: --mixed_precision bf16"
            )
        if "precision" in options.given:
            raise InputError(
                f"{options.where('precision')} with {asked}: these are two precisions. Fix: leave"
                " out one of them"
            )
        precision = cast(Precision, launched)
    return replace(recipe, flip=flip, precision=precision)


def _check_mixing(recipe: Settings, options: Options) -> None:
    """Raise InputError for an option of mixing that has no effect with the others."""
    kinds = [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    if recipe.mix and not kinds and "mix" in options.given:
        raise InputError(
            f"{options.where('mix')}: has no effect here (requires --mixup or --cutmix). Fix: leave it"
            " out"
        )
    ignored = next((name for name in kinds if name in options.given), None)
    if not recipe.mix and ignored:
        raise InputError(
            f"{options.where(ignored)}: has no effect here (requires --mix, not --mix 0). Fix: leave"
            " it out"
        )


def _check_launched(options: Options) -> None:
    """Raise InputError for what `accelerate launch` was asked for and no training here does."""
    for name, same in _LAUNCHED.items():
        value = os.environ.get(name, "")
        # One micro-batch is what a step has anyway.
        asked = value.lower() not in (*_UNASKED, "1" if same == "--accumulate" else "")
        if asked and same.lstrip("-").replace("-", "_") not in options.given:
            raise InputError(
                f"{name}={value}: has no effect here. Fix: leave it out of accelerate launch and its"
                f" configuration{f', and give {same}' if same else ''}"
            )


def check_task(recipe: Settings, task: Task, options: Options | None = None) -> None:
    """Raise InputError for a setting that a task cannot have.

    Args:
        recipe: of a training.
        task: what it trains.
        options: of the command, to name the setting as it was given.
    """
    for name, reason in task.fixed.items():
        usual = task.defaults.get(name, options_of(Settings)[name].default)
        value = getattr(recipe, name)
        if value != usual:
            where = options.where(name) if options else f"{name}={value}"
            remedy = "leave it out" if options else f"{name}={usual!r}"
            raise InputError(f"{where}: has no effect on {task.name} ({reason}). Fix: {remedy}")


def settle_store(store: Store, description: Path) -> Store:
    """Return the store of a training: for `auto` the one that its folder records, if any.

    Args:
        store: as asked for.
        description: file of the training's folder. Versions before the stream store record none;
            their images were in memory.
    """
    if store != "auto" or not description.exists():
        return store
    data = YamlFile(description).data.get("data")
    recorded = data.get("store", "memory") if isinstance(data, dict) else store
    return cast(Store, recorded) if recorded in get_args(Store) else store
