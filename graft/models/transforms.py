"""Preprocessing and augmentation of images: one transform for training, one for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tf

from graft.config.training import AugmentationConfig
from graft.errors import TrainingError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RANGE_TOLERANCE = 1e-3  # for rounding, on a scale of 0..1
MAX_ASPECT_RATIO = 8  # the default of data.validation.max_aspect_ratio: what is trained on is resized whole


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, crop the centre, scale to 0..1, normalise. Stored with the weights.

    For every backbone, the resize is bilinear with antialiasing and rounded to whole grey levels, so that training,
    evaluation and the exported graph see the same pixels.
    """

    resize_px: int
    crop_px: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def describe(self) -> str:
        """The preprocessing as a sentence, for the metadata of an exported model."""
        return (
            f"short side to {self.resize_px} px (bilinear, antialiased, rounded), centre crop "
            f"{self.crop_px} x {self.crop_px} px, divided by 255, minus mean {list(self.mean)}, "
            f"divided by std {list(self.std)}"
        )


def central_length(side: int, other_side: int) -> int:
    """How many central pixels of a side are resized: all, or 8 times the other side if there are more.

    The crop needs no more, and resizing the whole of a picture of 1 x 20,000 px would take 15 GB. The number is odd
    if ``side`` is, so that the centre stays the same.
    """
    length: int = torch.sym_min(side, MAX_ASPECT_RATIO * other_side + side % 2)  # type: ignore[assignment]
    return length


def resize_and_crop(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop uint8 ``[3, height, width]`` to uint8 ``[3, crop, crop]``.

    Computed in float32 and then rounded, as the exported graph does; torchvision's uint8 kernel would round its
    interpolation weights as well.
    """
    height, width = image.shape[1:]
    image = tf.center_crop(image, [central_length(height, width), central_length(width, height)])
    resized = tf.resize(image.float(), [preprocessing.resize_px], antialias=True)
    cropped: Tensor = tf.center_crop(resized, [preprocessing.crop_px])
    return cropped.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class ImageTransform:
    """An image transform in two parts: ``fixed`` is deterministic, so its output can be cached; ``random`` augments.

    ``fixed`` takes an image uint8 ``[3, height, width]``; if ``min_side_px`` is set, the image may have been decoded
    at a reduced size with no side below it. ``random`` takes the output of ``fixed`` and returns uint8
    ``[3, crop, crop]``. Cache keys contain ``name``, which identifies the transform for a given preprocessing, and
    ``fixed_name``, which identifies its fixed part for any.
    """

    name: str
    fixed_name: str
    min_side_px: int | None
    fixed: Callable[[Tensor], Tensor]
    random: Callable[[Tensor], Tensor]


def evaluation_transform(preprocessing: Preprocessing) -> ImageTransform:
    """The centre crop, exactly as in the exported graph; nothing is random."""
    crop = partial(resize_and_crop, preprocessing=preprocessing)
    name = f"crop of {preprocessing.crop_px} from {preprocessing.resize_px}"
    return ImageTransform("evaluation", name, None, crop, _identity)


def training_transform(augmentation: AugmentationConfig, preprocessing: Preprocessing) -> ImageTransform:
    """A random crop, flipped and distorted as configured; with strength ``none``, the evaluation transform.

    ``light`` crops 35 to 100 % of the area; ``strong`` crops 25 to 100 % and distorts colour and geometry
    (TrivialAugment, Müller and Hutter 2021). The fixed part shrinks a large image as far as the smallest square crop
    still has ``crop_px`` pixels a side.
    """
    if augmentation.strength == "none":
        return evaluation_transform(preprocessing)
    size = preprocessing.crop_px
    min_area = 0.35 if augmentation.strength == "light" else 0.25
    steps: list[v2.Transform] = [v2.RandomResizedCrop(size, scale=(min_area, 1.0), antialias=True)]
    if augmentation.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.strength == "strong":
        steps.append(v2.TrivialAugmentWide())
    min_side_px = math.ceil(size / math.sqrt(min_area))
    name = f"{augmentation.strength} flip={augmentation.horizontal_flip}"
    fixed = partial(_shrink, short_side_px=min_side_px)
    return ImageTransform(name, f"short side of {min_side_px}", min_side_px, fixed, v2.Compose(steps))


def _shrink(image: Tensor, short_side_px: int) -> Tensor:
    if min(image.shape[1:]) <= short_side_px:
        return image
    resized: Tensor = tf.resize(image, [short_side_px], antialias=True)
    return resized


def _identity(image: Tensor) -> Tensor:
    return image


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise images 0..255 ``[batch, 3, height, width]``; returns float32 of the same shape."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - mean) / std


def check_normalized(images: Tensor, preprocessing: Preprocessing) -> None:
    """Raise ``TrainingError`` if normalised images ``[batch, 3, height, width]`` cannot come from pixels 0..255."""
    mean, std = (torch.tensor(values, device=images.device) for values in (preprocessing.mean, preprocessing.std))
    extremes = torch.stack([images.amin((0, 2, 3)), images.amax((0, 2, 3))]) * std + mean
    low, high = torch.stack([extremes.min(), extremes.max()]).tolist()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise TrainingError(
            f"the images that reach the model run from {low:.3g} to {high:.3g} before normalising, not from 0 to "
            f"1; check how images are read and augmented."
        )
