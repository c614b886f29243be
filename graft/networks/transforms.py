"""From pixels to what a backbone sees: one preset for training, one for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tf

from graft.errors import TrainingError
from graft.training_config import AugmentationConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SLACK = 1e-3  # of what rounding may add to 0..1


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, crop the centre, scale to 0..1, normalise; it travels with the weights.

    The resize is bilinear with antialiasing, its result rounded to whole grey levels, for every backbone:
    so training, evaluation and the exported graph see the same pixels.
    """

    resize_px: int
    crop_px: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def in_words(self) -> str:
        """The preprocessing as a sentence, for the metadata of an exported model."""
        return (
            f"short side to {self.resize_px} px (bilinear, antialiased, rounded), centre crop "
            f"{self.crop_px} x {self.crop_px} px, divided by 255, minus mean {list(self.mean)}, "
            f"divided by std {list(self.std)}"
        )


def for_evaluation(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop uint8 ``[3, height, width]`` to uint8 ``[3, crop, crop]``.

    Computed in float32 and rounded, as the exported graph does; the integer kernel rounds its weights too.
    """
    resized = tf.resize(image.float(), [preprocessing.resize_px], antialias=True)
    cropped: Tensor = tf.center_crop(resized, [preprocessing.crop_px])
    return cropped.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class ImageTransform:
    """How an image becomes a crop: first what is the same each time, and so can be kept, then what is random.

    ``fixed`` takes uint8 ``[3, height, width]``: every pixel of the file, or with ``at_least`` what is left of a
    larger image whose sides still have so many. ``random`` takes what ``fixed`` gave. ``name`` tells transforms
    for one preprocessing apart, ``fixed_name`` their fixed parts for any.
    """

    name: str
    fixed_name: str
    at_least: int | None
    fixed: Callable[[Tensor], Tensor]
    random: Callable[[Tensor], Tensor]


def evaluation_transform(preprocessing: Preprocessing) -> ImageTransform:
    """To the crop that the exported graph makes; nothing of it is random."""
    crop = partial(for_evaluation, preprocessing=preprocessing)
    name = f"crop of {preprocessing.crop_px} from {preprocessing.resize_px}"
    return ImageTransform("evaluation", name, None, crop, _as_it_is)


def training_transform(how: AugmentationConfig, preprocessing: Preprocessing) -> ImageTransform:
    """To a random crop uint8 ``[3, crop, crop]``; with strength ``none`` as for evaluation.

    ``light`` crops 60 to 100 % of the area; ``strong`` crops 25 to 100 % and distorts colour and geometry
    (TrivialAugment, Müller and Hutter 2021). First, a large image is made so small that the smallest square crop
    still has as many pixels as are wanted.
    """
    if how.strength == "none":
        return evaluation_transform(preprocessing)
    size = preprocessing.crop_px
    smallest = 0.6 if how.strength == "light" else 0.25
    steps: list[v2.Transform] = [v2.RandomResizedCrop(size, scale=(smallest, 1.0), antialias=True)]
    if how.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    if how.strength == "strong":
        steps.append(v2.TrivialAugmentWide())
    enough = math.ceil(size / math.sqrt(smallest))
    name = f"{how.strength} flip={how.horizontal_flip}"
    fixed = partial(_reduced, short_side=enough)
    return ImageTransform(name, f"short side of {enough}", enough, fixed, v2.Compose(steps))


def _reduced(image: Tensor, short_side: int) -> Tensor:
    if min(image.shape[1:]) <= short_side:
        return image
    smaller: Tensor = tf.resize(image, [short_side], antialias=True)
    return smaller


def _as_it_is(image: Tensor) -> Tensor:
    return image


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn 0..255 ``[batch, 3, height, width]`` into normalised float32 of the same shape."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - mean) / std


def require_normalised(images: Tensor, preprocessing: Preprocessing) -> None:
    """Raise ``TrainingError`` where images ``[batch, 3, height, width]`` are not what pixels 0..255 become."""
    mean, std = (torch.tensor(values, device=images.device) for values in (preprocessing.mean, preprocessing.std))
    ends = torch.stack([images.amin((0, 2, 3)), images.amax((0, 2, 3))]) * std + mean
    low, high = torch.stack([ends.min(), ends.max()]).tolist()
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise TrainingError(
            f"the images that reach the model run from {low:.3g} to {high:.3g} before normalising, not from 0 to "
            f"1; look at how images are read and augmented."
        )
