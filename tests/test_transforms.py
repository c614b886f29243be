"""Preprocessing of images of any shape."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tf

from graft.models.transforms import Preprocessing, central_length, resize_and_crop

PREPROCESSING = Preprocessing(20, 16)


def random_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def resize_whole_and_crop(image: Tensor) -> Tensor:
    resized = tf.resize(image.float(), [20], antialias=True)
    cropped: Tensor = tf.center_crop(resized, [16])
    return cropped.round().clamp(0, 255).to(torch.uint8)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(1, 8), st.booleans())
def test_image_with_a_side_of_at_most_eight_times_the_other_is_resized_whole(
    short: int, aspect_ratio: float, upright: bool
) -> None:
    long = int(short * aspect_ratio)
    image = random_image(long, short) if upright else random_image(short, long)
    assert torch.equal(resize_and_crop(image, PREPROCESSING), resize_whole_and_crop(image))


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_central_length_is_bounded_and_keeps_the_centre(side: int, other_side: int) -> None:
    length = central_length(side, other_side)
    assert length == side or 8 * other_side <= length <= 8 * other_side + 1
    assert (side - length) % 2 == 0


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (1, 3001), (7, 501), (3000, 2)])
def test_crop_of_a_long_image_is_that_of_the_whole_image(height: int, width: int) -> None:
    image = tf.gaussian_blur(random_image(height, width), [31, 1] if height < width else [1, 31])
    difference = resize_and_crop(image, PREPROCESSING).int() - resize_whole_and_crop(image).int()
    assert difference.abs().max() <= 2


def test_memory_for_a_long_image_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = Mock(side_effect=tf.resize)
    monkeypatch.setattr(tf, "resize", resize)
    resize_and_crop(random_image(1, 100_000), PREPROCESSING)
    assert resize.call_args.args[0].shape == (3, 1, 8)
