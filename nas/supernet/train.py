"""Training a supernet: weights and architecture parameters together, resumable to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nas.data import ImageData
from nas.errors import InputError, NasError
from nas.files import replacing
from nas.space import Space
from nas.space.space import Blocks, Pick, most_macs
from nas.specs import BlockSpec, Shape
from nas.supernet.augment import augment
from nas.supernet.batches import epoch_batches
from nas.supernet.checkpoint import Folder, describe, load_state, save_state, save_weights
from nas.supernet.gumbel import GumbelSoftmax, TemperatureSchedule
from nas.supernet.recipe import Recipe
from nas.supernet.supernet import Supernet
from nas.supernet.warm_start import Start, warm_start

RANK_EVERY = 50
"""Steps between two rankings of the channels. States are saved at these steps only, so that a resumed training ranks
the same weights."""


@dataclass(frozen=True)
class Progress:
    """One row of metrics.csv: means over the steps since the last row.

    `accuracy` is that of the sampled networks on augmented training images, in percent: a sign of life, not a result.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float
    learning_rate: float
    temperature: float
    images_per_second: float


def train(
    space: Space, data: ImageData, recipe: Recipe, out: str | Path, *,
    report: Callable[[Progress], None] = lambda progress: None,
    start: Start | None = None, device: str | None = None, save_every: float = 300.0, report_every: int = 10,
) -> Folder:  # fmt: skip
    """Trains the supernet of `space` on `data`, from where the folder `out` stands if it holds this training already.

    EfficientFormer (arXiv:2206.01191), Sec. 4.2: the loss of a sampled path is followed by weights and alpha alike.

    Args:
        space: at the resolution and the number of classes of the data.
        data: uint8 images (N, 3, H, W).
        recipe: how.
        out: the folder; see `nas.supernet.checkpoint`.
        report: called every `report_every` steps.
        start: a published network whose weights the supernet begins with; by default they are random.
        device: cpu or cuda; by default the GPU where there is one.
        save_every: seconds between two saved states.

    Raises:
        InputError: data of another shape, or a folder that holds another training.
        NasError: the loss is no longer a number; the last state stays.
    """
    _check(space, data)
    folder = Folder(Path(out))
    of = {"source": data.source, "images": len(data), "fingerprint": data.fingerprint}
    describe(folder, space, recipe, of, start.describe() if start else None)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(recipe.seed)
    supernet = Supernet(space)
    if start and not folder.state.exists():
        warm_start(supernet, start.network, start.space)
    supernet = supernet.to(place).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = _optimizer(supernet, recipe)
    done = load_state(folder.state, supernet, optimizer) if folder.state.exists() else 0
    _Loop(supernet, optimizer, data, recipe, folder, place).run(done, report, save_every, report_every)
    save_weights(folder.weights, supernet)
    return folder


def _check(space: Space, data: ImageData) -> None:
    if data.images.shape[2:] != space.resolution:
        raise InputError(f"images of {data.images.shape[2:]} for a space at {space.resolution}: give --resolution")
    if len(data.classes) != space.classes:
        raise InputError(f"{len(data.classes)} classes in the data, {space.classes} in the space's head")


def _optimizer(supernet: Supernet, recipe: Recipe) -> torch.optim.Optimizer:
    alphas = list(supernet.alphas().values())
    others = [p for name, p in supernet.named_parameters() if not name.endswith(".alpha")]
    groups = [
        {
            "params": [p for p in others if p.dim() > 1],
            "weight_decay": recipe.weight_decay,
            "peak": recipe.learning_rate,
        },
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "peak": recipe.learning_rate},
        {"params": alphas, "weight_decay": 0.0, "peak": recipe.alpha_rate},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def rate(progress: float, warmup: float) -> float:
    """The learning rate over its peak when this share (0 to 1) of the training is done: warm-up, then a cosine."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class _Loop:
    """The steps of one training. All randomness of a step follows from the seed and the step's number."""

    def __init__(
        self, supernet: Supernet, optimizer: torch.optim.Optimizer, data: ImageData, recipe: Recipe, folder: Folder,
        place: torch.device,
    ) -> None:  # fmt: skip
        self.supernet, self.optimizer, self.data, self.recipe = supernet, optimizer, data, recipe
        self.folder, self.place = folder, place
        self.per_epoch = len(epoch_batches(len(data), recipe.batch, recipe.seed, 0))
        self.steps = self.per_epoch * recipe.epochs
        self.schedule = TemperatureSchedule(recipe.temperature, recipe.final_temperature)

    def run(self, start: int, report: Callable[[Progress], None], save_every: float, report_every: int) -> None:
        _truncate(self.folder.metrics, start)
        _truncate(self.folder.alpha, start)
        saved = since = time.monotonic()
        losses, hits, images = [], 0, 0
        batches = epoch_batches(len(self.data), self.recipe.batch, self.recipe.seed, start // self.per_epoch)
        for step in range(start, self.steps):
            if step % RANK_EVERY == 0 and self.recipe.narrow:
                self.supernet.rank_channels()
            if step % self.per_epoch == 0:
                batches = epoch_batches(len(self.data), self.recipe.batch, self.recipe.seed, step // self.per_epoch)
            loss, right, count = self._step(step, batches[step % self.per_epoch])
            losses.append(loss)
            hits, images = hits + right, images + count
            if (step + 1) % report_every == 0 or step + 1 == self.steps:
                now = time.monotonic()
                report(self._log(step + 1, sum(losses) / len(losses), 100 * hits / images, images / (now - since)))
                losses, hits, images, since = [], 0, 0, now
            due = time.monotonic() - saved > save_every and (step + 1) % RANK_EVERY == 0
            if due or step + 1 == self.steps:
                save_state(self.folder.state, self.supernet, self.optimizer, step + 1)
                saved = time.monotonic()

    def _step(self, step: int, indices: NDArray[np.int64]) -> tuple[float, int, int]:
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        progress = step / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate((step + 1) / self.steps, self.recipe.warmup)
        images = torch.from_numpy(self.data.images[indices]).to(self.place)
        labels = torch.from_numpy(self.data.labels[indices]).to(self.place)
        x_bchw = augment(images, generator, flip=self.recipe.flip).contiguous(memory_format=torch.channels_last)
        choose = GumbelSoftmax(self.schedule.at(progress), self.recipe.noise, self.recipe.sampling)
        with torch.autocast(self.place.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            output = self.supernet(x_bchw, choose, generator, *self._draw(generator))
        loss, logits = loss_of(output, labels, self.recipe.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise NasError(
                f"{self.folder.root}: the loss is {value} at step {step + 1}; the state before it is kept, "
                "go on with a lower --learning-rate in a new --out"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value, int((logits.argmax(dim=1) == labels).sum()), len(labels)

    def _draw(self, generator: torch.Generator) -> tuple[list[int] | None, Pick]:
        """Stage widths and candidates: the largest in some steps, random ones in the share `narrow` of them."""
        if torch.rand((), generator=generator) >= self.recipe.narrow:
            return None, most_macs
        choices = [stage.widths for stage in self.supernet.space.stages]
        widths = [widths[int(torch.randint(len(widths), (), generator=generator))] for widths in choices]
        return widths, partial(_any, generator)

    def _log(self, step: int, loss: float, accuracy: float, speed: float) -> Progress:
        rate, temperature = float(self.optimizer.param_groups[0]["lr"]), self.schedule.at(step / self.steps)
        progress = Progress(
            step, self.steps, round(step / self.per_epoch, 4), round(loss, 5), round(accuracy, 2), round(rate, 8),
            round(temperature, 4), round(speed, 1),
        )  # fmt: skip
        _append(self.folder.metrics, [asdict(progress)])
        _append(self.folder.alpha, [_shares(step, name, alpha) for name, alpha in self.supernet.alphas().items()])
        return progress


def _any(generator: torch.Generator, place: str, candidates: Blocks, shape: Shape) -> BlockSpec:
    return candidates[int(torch.randint(len(candidates), (), generator=generator)) if len(candidates) > 1 else 0]


def _shares(step: int, name: str, alpha: Tensor) -> dict[str, object]:
    """A position's softmax of alpha, by candidate."""
    *candidates, identity = (round(share, 5) for share in alpha.detach().float().softmax(dim=0).tolist())
    local, global_ = (*candidates, None)[:2]
    return {"step": step, "position": name, "local": local, "global": global_, "identity": identity}


def loss_of(output: Tensor | tuple[Tensor, Tensor], labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy, the mean over both heads where there are two, and the logits to judge by."""
    heads = output if isinstance(output, tuple) else (output,)
    losses = [F.cross_entropy(logits.float(), labels, label_smoothing=smoothing) for logits in heads]
    return torch.stack(losses).mean(), torch.stack(heads).float().mean(dim=0)


def _append(path: Path, rows: Sequence[dict[str, object]]) -> None:
    pd.DataFrame(rows).to_csv(path, mode="a", header=not path.exists(), index=False)


def _truncate(path: Path, step: int) -> None:
    """Drops the rows after a step: they belong to work that a killed training had not saved."""
    if path.exists():
        rows = pd.read_csv(path)
        with replacing(path) as temporary:
            rows[rows["step"] <= step].to_csv(temporary, index=False)
