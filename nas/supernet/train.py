"""Training of a supernet: the sandwich rule, the task, and the run from a recipe to a checkpoint.

`nas.supernet.command` calls `train`; the steps themselves are those of `nas.training.loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.blocks import Shape
from nas.data import ImageData
from nas.errors import InputError
from nas.space import Space
from nas.space.candidates import Pick, Spec, most_macs
from nas.space.place import Place
from nas.supernet.checkpoint import Folder, describe, save_weights
from nas.supernet.choices import GumbelSoftmax, TemperatureSchedule
from nas.supernet.options import Recipe
from nas.supernet.score import first_images
from nas.supernet.supernet import Supernet
from nas.supernet.warm_start import Start, warm_start
from nas.tasks import task_of
from nas.tasks.base import Task as Goal
from nas.training import loop
from nas.training.batches import steps_an_epoch
from nas.training.distributed import processes
from nas.training.evaluate import accuracy_of, calibrate
from nas.training.metrics import Progress, append, truncate
from nas.training.settings import check_task
from nas.training.task import Task

Output = Tensor | tuple[Tensor, Tensor]


def sandwich_loss(
    supernet: Supernet,
    images_bchw: Tensor,
    targets: Tensor,
    smoothing: float,
    randoms: int,
    random: Callable[[], Output],
    loss: str = "ce",
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a sandwich, and the scores of the largest member.

    The sandwich rule and in-place distillation of universally slimmable networks
    (arXiv:1903.05134). The sandwich is the largest member, the smallest and `randoms` random ones.
    The largest learns the labels, the others learn its probabilities in the same step. The
    architecture parameters learn from the random members alone: only these depend on them.

    Args:
        supernet: in training mode.
        images_bchw: a micro-batch.
        targets: its classes (B,), probabilities (B, classes), or masks (B, H, W).
        smoothing: of the labels.
        randoms: number of random members.
        random: returns the output of another random member at each call.
    """
    whole = supernet.forward_sliced(images_bchw, supernet.space.largest())
    task = task_of(supernet.space.heads[0])
    mean, scores = task.loss(whole, targets, smoothing, loss)
    losses = [mean]
    # Detached: the largest member must not learn to be easy to imitate.
    teacher = scores.detach()
    smallest = supernet.forward_sliced(images_bchw, supernet.space.smallest())
    losses.append(task.imitation(smallest, teacher))
    losses += [task.imitation(random(), teacher) for _ in range(randoms)]
    return torch.stack(losses).mean(), scores


RANK_EVERY = 50
"""Steps between two rankings of the channels."""
VALIDATION_IMAGES = 2000
"""Maximum number of held-out images that the largest member is evaluated on after an epoch: enough
for a standard error of one point, and a small share of an epoch's time."""


def train(
    space: Space,
    data: ImageData,
    recipe: Recipe,
    out: str | Path,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    held_out: ImageData | None = None,
    start: Start | None = None,
    device: str | None = None,
    save_every: float = loop.SAVE_EVERY,
    report_every: int = 10,
    command: str = "",
    workers: int | None = None,
) -> Folder:
    """Train the supernet of `space` on `data`, or resume the training in the folder `out`.

    As in EfficientFormer (arXiv:2206.01191), Sec. 4.2, the weights and alpha both follow the
    gradient of a sampled path's loss.

    Args:
        space: at the resolution and the number of classes of the data.
        data: uint8 images (N, 3, H, W).
        recipe: settings of the training.
        out: the folder; see `nas.supernet.checkpoint`.
        report: called every `report_every` steps, in the main process.
        held_out: images that the largest member is evaluated on after an epoch; none by default.
        start: a published network whose weights the supernet begins with; by default they are
            random.
        device: cpu or cuda; by default a GPU where there is one.
        save_every: seconds between two saved states.
        report_every: steps between two reports.
        command: the command line, for the description.
        workers: see `nas.training.loader.open_batches`.

    Raises:
        InputError: data of another shape, or a folder that holds another training.
        NasError: the loss is NaN or infinite (the last state stays), memory ran out, or another
            process trains in the folder.
        Stopped: a signal arrived; the state is saved.
    """
    _check(space, data)
    check_task(recipe, task_of(space.heads[0]))
    folder = Folder(Path(out))
    together = processes(device)
    with folder.locked(together.main):
        of: dict[str, Any] = {
            "source": data.source,
            "images": len(data),
            "store": data.store,
            "background": data.background,
            "fingerprint": data.fingerprint,
            "classes": list(data.classes),
        }
        if data.name:
            of["name"] = data.name  # a fine-tuning of its members takes it as --data
        if data.part is not None:
            # By these `nas.supernet.evaluate.training_splits` finds the held-out images again.
            of |= {
                "dataset": data.part.dataset,
                "total": data.part.total,
                "held_out": data.part.total - len(data),
            }
        # Every process checks, only the main one writes. Where one refuses, all stop.
        about = start.describe() if start else None
        with together.agreed():
            describe(folder, space, recipe, of, about, together.main, command)
        # The same random weights in all processes: the loop never copies weights between them.
        torch.manual_seed(recipe.seed)
        supernet = Supernet(space)
        # A saved state holds all weights and would overwrite those of `start`.
        if start and not folder.state.exists():
            warm_start(supernet, start.network, start.space)
        task = SupernetTask(
            supernet,
            recipe,
            folder,
            recipe.epochs * steps_an_epoch(len(data), recipe.batch),
            calibration=data,
            held_out=held_out and first_images(held_out, VALIDATION_IMAGES),
        )
        averaged = loop.train(
            task,
            data,
            recipe,
            folder,
            report=report,
            save_every=save_every,
            report_every=report_every,
            device=device,
            workers=workers,
        )
        with together.agreed():
            if together.main:
                weights = averaged if isinstance(averaged, Supernet) else supernet
                save_weights(folder.weights, weights)
        return folder


def _check(space: Space, data: ImageData) -> None:
    if data.images.shape[2:] != space.resolution:
        raise InputError(
            f"images of {data.images.shape[2:]} for a space at {space.resolution}. Fix:"
            " --resolution"
        )
    task = task_of(space.heads[0])
    if task.has_maps is not (data.masks is not None):
        there = "have masks" if data.masks is not None else "have no masks"
        raise InputError(
            f"the images {there}, and the space's head is one of {task.name}. Fix: "
            f"{'leave out --segment' if task.has_maps else 'add --segment'}"
        )
    if len(data.classes) != space.classes:
        raise InputError(
            f"{len(data.classes)} classes in the data, {space.classes} in the space's head"
        )


class SupernetTask(Task):
    """The task of a supernet: paths drawn by Gumbel-softmax, at full width or narrowed.

    Args:
        supernet: the module to train.
        recipe: settings of the training.
        folder: where alpha.csv is written.
        steps: steps of the whole training, over which the temperature falls.
        calibration: training images for the batch norms of the member that is evaluated.
        held_out: images that it is evaluated on, if there are any.
    """

    def __init__(
        self,
        supernet: Supernet,
        recipe: Recipe,
        folder: Folder,
        steps: int,
        *,
        calibration: ImageData | None = None,
        held_out: ImageData | None = None,
    ) -> None:
        self.supernet = supernet
        self.recipe = recipe
        self.folder = folder
        self.steps = steps
        self.calibration = calibration
        self.held_out = held_out
        self.schedule = TemperatureSchedule(recipe.temperature, recipe.final_temperature)

    @property
    def goal(self) -> Goal:
        return task_of(self.supernet.space.heads[0])

    @property
    def module(self) -> Supernet:
        return self.supernet

    def tensors(self) -> dict[str, Tensor]:
        return self.supernet.ranking_tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.supernet.restore_ranking(tensors)

    def evaluate(self, module: nn.Module) -> float | None:
        """Return the accuracy of the largest member in percent, its batch norms recalibrated.

        The supernet's own running statistics mix those of all members. The last epoch's weights are
        the result, not the best epoch's: the score of every other member depends on them too.
        """
        if self.held_out is None or self.calibration is None:
            return None
        assert isinstance(module, Supernet)
        largest = module.extract(module.space.largest())
        calibrate(largest, self.calibration)
        return accuracy_of(largest, self.held_out, together=processes()).accuracy

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return three groups: kernels and matrices, all other weights, and alpha."""
        alphas = list(self.supernet.alphas().values())
        others = [p for name, p in self.supernet.named_parameters() if not name.endswith(".alpha")]
        # Weight decay is for matrices and kernels. It would pull norms and scales to 0, and alpha
        # to equal choices.
        decayed = self.recipe.weight_decay
        rate = self.recipe.learning_rate
        return [
            {"params": [p for p in others if p.dim() > 1], "weight_decay": decayed, "peak": rate},
            {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "peak": rate},
            {"params": alphas, "weight_decay": 0.0, "peak": self.recipe.alpha_rate},
        ]

    def begin(self, step: int) -> None:
        truncate(self.folder.alpha, step)

    def before_step(self, step: int) -> None:
        if step % RANK_EVERY == 0 and (self.recipe.narrow or self.recipe.sandwich):
            self.supernet.rank_channels()

    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        targets: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a sandwich or of one drawn path, and scores; see `Task.loss`."""
        recipe = self.recipe
        choose = GumbelSoftmax(self.schedule.at(step / self.steps), recipe.noise, recipe.sampling)
        # Random members of a sandwich are always narrowed: its largest member is full width.
        if recipe.sandwich:
            random = lambda: module(images_bchw, choose, generator, *self._draw(1.0, generator))  # noqa: E731
            return sandwich_loss(
                self.supernet,
                images_bchw,
                targets,
                recipe.label_smoothing,
                recipe.sandwich,
                random,
                recipe.loss,
            )
        output = module(images_bchw, choose, generator, *self._draw(recipe.narrow, generator))
        return self.goal.loss(output, targets, recipe.label_smoothing, recipe.loss)

    def _draw(self, narrow: float, generator: torch.Generator) -> tuple[list[int] | None, Pick]:
        """Return stage widths and a pick of candidates: random in the share `narrow` of the steps.

        In the other steps both are the largest. Widths are in channels; None is the largest.
        """
        if torch.rand((), generator=generator) >= narrow:
            return None, most_macs
        choices = [stage.widths for stage in self.supernet.space.stages]
        widths = [
            widths[int(torch.randint(len(widths), (), generator=generator))] for widths in choices
        ]
        return widths, _any(generator)

    def log(self, step: int) -> dict[str, float]:
        append(
            self.folder.alpha,
            [_shares(step, name, alpha) for name, alpha in self.supernet.alphas().items()],
        )
        return {"temperature": round(self.schedule.at(step / self.steps), 4)}


def _any(generator: torch.Generator) -> Pick:
    """Return a pick that draws one of the candidates of each place, all equally likely."""

    def pick(place: Place, candidates: tuple[Spec, ...], shape: Shape) -> Spec:
        return candidates[
            (
                int(torch.randint(len(candidates), (), generator=generator))
                if len(candidates) > 1
                else 0
            )
        ]

    return pick


def _shares(step: int, name: str, alpha: Tensor) -> dict[str, object]:
    """Return a row of alpha.csv: a position's softmax of alpha, by role.

    `global` is None where the position has no global block.
    """
    *candidates, identity = (
        round(share, 5) for share in alpha.detach().float().softmax(dim=0).tolist()
    )
    local, global_ = (*candidates, None)[:2]
    return {"step": step, "position": name, "local": local, "global": global_, "identity": identity}
