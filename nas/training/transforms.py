"""Random changes of single images by torchvision, seeded per image.

`nas.training.loader` applies them in its workers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from nas.data.decoding import Fit
from nas.data.images import IGNORED, MEAN
from nas.data.masks import PairFit
from nas.errors import InputError
from nas.extras import need
from nas.training.augmentation import Augmentation

if TYPE_CHECKING:
    from PIL import Image as Pillow


def transforms_v2() -> ModuleType:
    """Return `torchvision.transforms.v2`.

    The wheel of torchvision on PyPI has operators that are compiled for one build of torch. Beside
    another build, such as the one for CPUs, they are not loaded, and its import fails at the first
    of them ("operator torchvision::nms does not exist"). The transforms use none of these operators,
    so here they are declared without kernels, and the import is tried again.

    Raises:
        MissingExtra: where torchvision is not installed.
        InputError: where it cannot be imported beside this torch.
    """
    need("--augment", "vision", "torchvision")
    try:
        from torchvision.transforms import v2
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        try:
            from torchvision.transforms import v2
        except (RuntimeError, ImportError) as error:
            from importlib.metadata import version

            raise InputError(
                f"--augment: torchvision {version('torchvision')} cannot be imported beside torch"
                f" {torch.__version__} ({str(error).splitlines()[0]}). Fix: the torchvision that was"
                " released with this torch, from the same index, or --augment light"
            ) from None
    return v2  # type: ignore[no-any-return]


def _declare_operators() -> None:
    """Declare the operators that the import of torchvision refers to, without kernels."""
    # The declarations last as long as the library object.
    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _library.define(signature)  # type: ignore[no-untyped-call]


_library: torch.library.Library | None = None


def random_fit(augmentation: Augmentation, resolution: tuple[int, int], flip: bool) -> Fit:
    """Return a function that changes an image at random and brings it to a resolution.

    It draws from torch's global generator; `seeded` sets that.

    Args:
        augmentation: with a random crop.
        resolution: (height, width) in pixels.
        flip: mirror left and right with probability 1/2.
    """
    v2 = transforms_v2()
    height, width = resolution
    low, high = augmentation.crop_aspect
    changes = [
        v2.RandomResizedCrop(
            (height, width),
            scale=augmentation.crop_area,
            ratio=(low * width / height, high * width / height),
            interpolation=v2.InterpolationMode.BICUBIC,
        )
    ]
    if flip:
        changes.append(v2.RandomHorizontalFlip())
    if augmentation.colour_jitter:
        jitter = augmentation.colour_jitter
        changes.append(v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter))
    if augmentation.randaugment_operations:
        # 31 steps from 0 to 30, as in the paper.
        changes.append(
            v2.RandAugment(
                augmentation.randaugment_operations, augmentation.randaugment_magnitude, 31
            )
        )
    # Pillow crops, resizes and changes colours of one image faster than torch does on one thread.
    changes.append(v2.PILToTensor())
    if augmentation.erasing:
        # Normalised, the mean of the channels is 0.
        mean = [round(255 * value) for value in MEAN]
        changes.append(v2.RandomErasing(augmentation.erasing, value=mean))
    change = v2.Compose(changes)

    def fit(image: Pillow.Image) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = change(image).numpy()
        return pixels

    return fit


def random_pair_fit(augmentation: Augmentation, resolution: tuple[int, int], flip: bool) -> PairFit:
    """Return a function that changes an image and its mask together; see `random_fit`.

    Both get a random size, from which a part of the resolution is cut out at random. What the image
    does not cover has the mean colour and is ignored. Masks are never interpolated: a value between
    two classes would be a third one.

    Args:
        augmentation: with random scales.
        resolution: (height, width) in pixels.
        flip: mirror left and right with probability 1/2.
    """
    # Before tv_tensors, whose import fails where that of the transforms has to be repaired.
    v2 = transforms_v2()
    from PIL.Image import Resampling
    from torchvision import tv_tensors

    assert augmentation.scale is not None
    height, width = resolution
    smallest, largest = augmentation.scale
    outside = {tv_tensors.Image: [round(255 * value) for value in MEAN], tv_tensors.Mask: IGNORED}
    changes = [v2.RandomCrop((height, width), pad_if_needed=True, fill=outside)]
    if flip:
        changes.append(v2.RandomHorizontalFlip())
    if augmentation.colour_jitter:
        jitter = augmentation.colour_jitter
        # Of the image alone: v2 leaves masks as they are.
        changes.append(
            v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=jitter / 10)
        )
    change = v2.Compose(changes)

    def fit(image: Pillow.Image, mask: Pillow.Image) -> NDArray[np.uint8]:
        fitting = min(height / image.height, width / image.width)
        # Uniform in the logarithm, so that half of the images become smaller.
        share = float(torch.rand(()))
        scale = fitting * smallest * (largest / smallest) ** share
        sides = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        pixels = np.asarray(image.resize(sides, Resampling.BICUBIC))
        classes = np.asarray(mask.resize(sides, Resampling.NEAREST))
        changed, kept = change(
            # (H, W, 3) to (3, H, W).
            tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(classes.copy())),
        )
        layers: NDArray[np.uint8] = torch.cat([changed, kept[None]]).numpy()
        return layers

    return fit


@contextmanager
def seeded(key: tuple[int, ...]) -> Iterator[None]:
    """Context manager: inside, torch's global generator starts from `key`; afterwards it goes on."""
    state = torch.get_rng_state()
    # Numbers of a tuple are mixed well, however small they are.
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    # Of the CPU alone: torch.manual_seed would also reset the generators of GPUs.
    torch.default_generator.manual_seed(int(seed))
    try:
        yield
    finally:
        torch.set_rng_state(state)
