"""Evaluation of a network: recalibration of its batch norms, and accuracy with its standard error.

`nas.finetune` calls `calibrate` and `accuracy_of`, `nas.supernet.walk` asks how many images an operation
takes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.blocks import Operation
from nas.data import ImageData
from nas.network import Network, run
from nas.tasks import task_of
from nas.training.batches import normalise
from nas.training.distributed import ALONE, Processes
from nas.training.statistics import measure
from nas.training.step import out_of_memory

IMAGES = 1024
"""Maximum number of images for the statistics of batch norms."""
PIXELS = 2**23
"""Maximum number of pixels of all these images together: it bounds memory."""
BATCH = 256
"""Maximum number of images that an accuracy is measured on at once by default."""
_PIECE_BYTES = {"cpu": 2**24, "cuda": 2**30}
"""Maximum size of the widest activation inside an operation, by type of device.

About three of this size are held at once.
"""


@dataclass(frozen=True)
class Accuracy:
    """How good a network is on some images.

    Attributes:
        accuracy: in percent of the metric of its task.
        standard_error: in points.
        images: number of images.
        by_class: the metric of each class in percent, None for classes on none of the images; empty
            where the metric is not one of classes.
    """

    accuracy: float
    standard_error: float
    images: int
    by_class: tuple[float | None, ...] = ()


def pieces_of(operation: Operation, device: torch.device) -> int:
    """Return how many images pass an operation at once: a power of two that bounds its memory."""
    widest = max([layer.written for layer in operation.spec.layers(operation.input)], default=0)
    widest = max(widest, operation.input.elements)
    limit = _PIECE_BYTES.get(device.type, _PIECE_BYTES["cpu"]) // (4 * widest)
    return 1 << (max(limit, 1).bit_length() - 1)


def recalibrate(block: nn.Module, x: Any, images: int | None = None) -> Any:
    """Give the batch norms of a block the statistics of one large batch; return the block's output.

    Args:
        block: changed in place; it must be in eval mode.
        x: the batch (B, ...), or a tuple of maps.
        images: number of images that pass the block at once; None for all. It changes nothing but
            the memory that is needed.
    """
    count = len(x[0]) if isinstance(x, tuple) else len(x)
    output, norms = measure(block, x, images or count, _in_turn)
    for norm in norms:
        for buffer, value in zip(norm.buffers, norm.moments.statistics(), strict=True):
            if buffer is not None:
                buffer.copy_(value)
    return output


def _in_turn(function: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    return [function(piece) for piece in pieces]


@torch.no_grad()
def calibrate(network: Network, data: ImageData) -> None:
    """Give the batch norms of a network, in place, the statistics of unaugmented training images.

    Statistics belong to weights. Averaged weights (EMA) give activations that no step of the
    training has seen; SWA (arXiv:1803.05407, Sec. 3.2) computes the statistics again for the same
    reason. A slice of a supernet has running statistics that all members left there. Augmented
    images also have other statistics than the images to evaluate.
    """
    sides = network.architecture.resolution
    # At least two images: batch norm refuses a single value per channel, as of 1x1 maps.
    count = min(len(data), IMAGES, max(PIXELS // (sides[0] * sides[1]), 2))
    # The order of the images is stratified, so the first ones have every class.
    x_bchw = _normalised(network, np.array(data.images[:count]))
    blocks = {
        operation.name: network.get_submodule(operation.name)
        for operation in network.architecture.operations()
    }
    network.eval()
    # Operation by operation: each gets inputs that were normalised by the new statistics.
    run(
        network.architecture.operations(),
        x_bchw,
        lambda operation, x: recalibrate(
            blocks[operation.name], x, pieces_of(operation, x_bchw.device)
        ),
    )


@torch.no_grad()
def accuracy_of(
    network: Network,
    data: ImageData,
    batch: int | None = None,
    together: Processes = ALONE,
) -> Accuracy:
    """Return the accuracy of a network in eval mode on all images of `data`, by its own task.

    Args:
        network: the network.
        data: the images.
        batch: number of images at once; by default at most `BATCH`, and fewer for wide networks.
        together: processes that share the batches; all must call this with equal weights and images.
    """
    network.eval()
    device = next(network.parameters()).device
    if batch is None:
        fewest = min(pieces_of(each, device) for each in network.architecture.operations())
        batch = min(BATCH, 8 * fewest)
    task = task_of(network.architecture.head)
    # Counts are whole numbers: however the batches are shared, they are equal.
    shape = task.tally_shape(network.architecture.classes)
    tallies = torch.zeros(len(data), *shape, dtype=torch.int64)
    with together.agreed():
        starts = range(together.index * batch, len(data), together.count * batch)
        parts = [slice(start, min(start + batch, len(data))) for start in starts]
        for part, (pixels, targets) in zip(parts, _read_ahead(data, parts), strict=True):
            scores = network(_normalised(network, pixels))
            tallies[part] = task.tally(scores, torch.from_numpy(targets).to(device)).cpu()
    figure = task.figure(together.share(tallies).numpy())
    by_class = tuple(None if each is None else round(each, 3) for each in figure.by_class)
    return Accuracy(round(figure.value, 3), round(figure.standard_error, 3), len(data), by_class)


@torch.no_grad()
def answers(
    network: Network, pixels: NDArray[np.uint8], size: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return the class of each pixel (B, H, W) of some images, by a segmentation network.

    Args:
        network: in eval mode.
        pixels: of the images, (B, 3, H, W).
        size: height and width of the answers.
    """
    scores = network(_normalised(network, pixels)).float()  # (B, classes, h, w)
    whole = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    found: NDArray[np.int64] = whole.argmax(dim=1).cpu().numpy()
    return found


def memory_ran_out(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, in the words of whichever library."""
    # oneDNN reports a failed allocation by the first two messages. They also mean that it does not
    # support an operation, which is excluded here: the training has computed the same blocks.
    words = ("could not create a primitive", "could not create a memory", "bad_alloc")
    return out_of_memory(error) or any(each in str(error) for each in words)


def resized(images_bchw: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return images (B, 3, H, W) at `resolution` (height, width), resized where they differ."""
    if images_bchw.shape[2:] == resolution:
        return images_bchw
    return F.interpolate(
        images_bchw, size=resolution, mode="bilinear", align_corners=False, antialias=True
    )


def _read_ahead(
    data: ImageData, parts: Sequence[slice]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield pixels (B, 3, H, W) and targets of parts, each read while the one before is used.

    Images of the `stream` store are decoded when they are read, by which a GPU would wait.
    """
    with ThreadPoolExecutor(1) as pool:
        pending: Future[tuple[NDArray[np.uint8], NDArray[np.int64]]] | None = None
        # One part at most is read ahead: more would take memory and save no time.
        for part in (*parts, None):
            current = pending
            pending = None if part is None else pool.submit(data.read, part)
            if current is not None:
                yield current.result()


def _normalised(network: Network, pixels: NDArray[np.uint8]) -> Tensor:
    """Return images (B, 3, H, W), normalised, on the network's device and at its resolution."""
    device = next(network.parameters()).device
    images = normalise(torch.from_numpy(np.ascontiguousarray(pixels)).to(device))
    return resized(images, network.architecture.resolution)
