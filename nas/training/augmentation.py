"""The augmentations of `--augment`, each with all of its numbers, for images with labels or with masks.

Imports no torch.

A recipe records them (`nas.training.settings`); `nas.training.transforms` follows them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Augment = Literal["light", "standard", "strong"]

SHIFT = 0.125
"""Maximum shift of a crop as a share of the side: 4 of 32 pixels, as is usual on CIFAR."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to a single image. Mixing and repeats concern several; they are options.

    Attributes:
        shift: maximum shift as a share of the side, edges mirrored; 0 where there is a random crop.
        crop_area: smallest and largest share of the image's area that a random crop has (Inception,
            arXiv:1409.4842); None for no random crop.
        crop_aspect: smallest and largest aspect ratio of the crop, relative to the network's input.
        scale: smallest and largest size of an image with a mask, relative to that at which it just
            fits into the network's input, before a part of that size is cut out at random; None for
            images without masks.
        colour_jitter: maximum relative change of brightness, contrast and saturation.
        randaugment_operations: random operations per image (RandAugment, arXiv:1909.13719).
        randaugment_magnitude: of each operation, of 30.
        erasing: probability that a random rectangle is erased (arXiv:1708.04896).
    """

    shift: float = 0.0
    crop_area: tuple[float, float] | None = None
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    scale: tuple[float, float] | None = None
    colour_jitter: float = 0.0
    randaugment_operations: int = 0
    randaugment_magnitude: int = 0
    erasing: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the parts that have an effect, for YAML."""
        listed = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        without = {key for key, value in listed.items() if not value}
        without |= set() if self.crop_area else {"crop_aspect"}
        return {key: value for key, value in listed.items() if key not in without}


@dataclass(frozen=True)
class Policy:
    """An augmentation with the options that it sets where they are not given.

    Attributes:
        image: what is done to a single image.
        options: values of `nas.training.settings.Settings`, by name.
    """

    image: Augmentation
    options: dict[str, float]


_SCALES = (0.5, 2.0)
"""Range of random scales of almost all training of segmentation (DeepLabv3, arXiv:1706.05587)."""

MASK_POLICIES: dict[Augment, Policy] = {
    "light": Policy(Augmentation(shift=SHIFT), {}),
    "standard": Policy(Augmentation(scale=_SCALES, colour_jitter=0.2), {}),
    # The photometric distortion of SSD (arXiv:1512.02325), as in training on Cityscapes.
    "strong": Policy(Augmentation(scale=_SCALES, colour_jitter=0.5), {}),
}
"""For images with masks, which are cut and mirrored together. Colours change in the image alone.

Operations of RandAugment that move pixels, erasing and mixing are left out: the first would have to
move masks too, the others hide what masks say is there.
"""


def policy(augment: Augment, masks: bool) -> Policy:
    """Return the policy of this name for images with labels, or for images with masks."""
    return MASK_POLICIES[augment] if masks else POLICIES[augment]


POLICIES: dict[Augment, Policy] = {
    # Whole images at low resolution lose little by a shift. No option changes.
    "light": Policy(Augmentation(shift=SHIFT), {}),
    # The crops of ResNet's training on ImageNet (arXiv:1512.03385), half of whose range is left
    # out, with weaker colours and erasing: networks of a few million weights underfit with more.
    "standard": Policy(
        Augmentation(crop_area=(0.35, 1.0), colour_jitter=0.2, erasing=0.1),
        {"mixup": 0.2, "cutmix": 1.0, "mix": 0.25, "switch": 0.5, "repeats": 1},
    ),
    # DeiT (arXiv:2012.12877), Table 9, which EfficientFormer and SwiftFormer follow.
    "strong": Policy(
        Augmentation(
            crop_area=(0.08, 1.0),
            randaugment_operations=2,
            randaugment_magnitude=9,
            erasing=0.25,
        ),
        {"mixup": 0.8, "cutmix": 1.0, "mix": 1.0, "switch": 0.5, "repeats": 3},
    ),
}
