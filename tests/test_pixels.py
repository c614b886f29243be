"""Decoded images are kept, and give what their files give; large ones are decoded no larger than is needed."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_digits import MODEL, few_digits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.data.images import read_rgb
from graft.inputs.datasets import Images
from graft.inputs.filling import kept_crops, kept_pixels
from graft.inputs.pixels import Reader
from graft.learning.history import EpochMetrics, Phase
from graft.networks.backbones import build
from graft.networks.transforms import Preprocessing, training_transform
from graft.training import Trained, train
from graft.training_config import AugmentationConfig, CacheConfig, LoopConfig

LIGHT = training_transform(AugmentationConfig(), Preprocessing(256, 224))
PHASE = Phase("finetune", 2, 1e-4, 0.5, None, (0,))
CUTMIX = {"strength": "light", "cutmix_alpha": 1.0}  # which needs pixels, whatever is frozen


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("graft.cache.lack.TRIED", None)  # images of tests are so small that keeping may not pay
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def images(digits: Path) -> Images:
    """Four of each digit to train on, two to validate."""
    return few_digits(digits, 4, 2)


def run(images: Images, **values: Any) -> Trained:  # noqa: ANN401
    loop = LoopConfig.model_validate({"batch_size": 16, "augmentation": CUTMIX} | values)
    return train(Trained(build(MODEL, 10, seed=0)), PHASE, loop, images, 0, lambda *_: None)


def difference(one: Trained, other: Trained) -> float:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from here on."""
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")


def segments(cache: Path) -> list[Path]:
    return sorted(cache.glob("kept/*/*.safetensors"))


def photograph(path: Path, width: int, height: int) -> None:
    """A JPEG with something to see at every size."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(40 * x * (1 + y)), np.cos(25 * y), x * y]
    Image.fromarray((np.stack(waves, axis=2) * 100 + 120).astype(np.uint8)).save(path, quality=90)


# Kept or not


def test_kept_pixels_train_the_same_weights_bit_for_bit(
    images: Images, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = run(images)
    assert segments(cache)
    elsewhere(monkeypatch)
    assert difference(run(images, cache={"max_gb": 0}), kept) == 0


def test_an_image_is_decoded_once(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(images, train=images.train.groupby("label").head(3))  # or other processes would decode them
    decoded: list[Path] = []

    def noted(path: Path, *rest: Any) -> np.ndarray:  # noqa: ANN401
        decoded.append(path)
        return read_rgb(path, *rest)

    monkeypatch.setattr("graft.inputs.pixels.read_rgb", noted)
    run(few)
    assert len(decoded) == len({*decoded}) == len(few.train) + len(few.validation)
    run(few, batch_size=8)
    assert len(decoded) == len(few.train) + len(few.validation)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError("read-only")])
def test_a_full_or_closed_disk_costs_time_alone(
    images: Images, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    kept = run(images)
    elsewhere(monkeypatch)

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("graft.cache.row_store.write_whole", full)
    assert difference(run(images), kept) == 0
    assert "Pixels are computed anew each time, not kept" in caplog.text


def test_damaged_pixels_are_never_trained_on(images: Images, cache: Path) -> None:
    expected = run(images)
    for path in (cache / "training").iterdir():
        path.unlink()
    for path in segments(cache):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    assert difference(run(images), expected) == 0


def test_what_does_not_fit_is_read_from_files(
    images: Images, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = kept_crops(images.source, images.train, CacheConfig(max_gb=1e-6))
    assert reader.store is None
    assert "raise it" in caplog.text
    assert not segments(cache)


def test_what_fits_is_kept_and_the_rest_read_from_files(
    images: Images, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="graft.cache.lack")
    monkeypatch.setattr("graft.cache.lack.SEGMENT_BYTES", 1)
    whole = kept_pixels(images.source, images.train, LIGHT, CacheConfig())
    assert whole.holds_all
    held = sum(path.stat().st_size for path in segments(cache))
    elsewhere(monkeypatch)
    for _ in range(2):  # the second time, some are there already
        some = kept_pixels(images.source, images.train, LIGHT, CacheConfig(max_gb=held / 2 / 1e9))
        assert some.store is not None
        assert not some.holds_all
        assert 0 < len(some.store.missing(list(images.train["sha256"]))) < len(images.train)
        for path, sha256 in zip(images.train["path"], images.train["sha256"], strict=True):
            assert torch.equal(some(path, sha256), whole(path, sha256))
    assert "and of the others computed anew" in caplog.text


def test_another_process_maps_the_same_pixels_or_reads_files(images: Images, cache: Path, tmp_path: Path) -> None:
    path, sha256 = images.train.iloc[0][["path", "sha256"]]
    reader = kept_pixels(images.source, images.train, LIGHT, CacheConfig())
    expected = reader(path, sha256)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        no_files = replace(reader, root=tmp_path / "nowhere")
        assert torch.equal(process.submit(no_files, path, sha256).result(), expected)
        for segment in segments(cache):
            segment.unlink()
        assert torch.equal(process.submit(reader, path, sha256).result(), expected)


def test_pixels_that_are_trained_on_are_in_use(images: Images, cache: Path) -> None:
    start = time.time()

    def age(_: Phase, epoch: int, __: EpochMetrics) -> None:
        for path in segments(cache) if epoch == 0 else ():
            os.utime(path, (1000, 1000))

    loop = LoopConfig.model_validate({"batch_size": 16, "augmentation": CUTMIX})
    train(Trained(build(MODEL, 10, seed=0)), PHASE, loop, images, 0, age)
    assert all(path.stat().st_mtime >= start for path in segments(cache))


def test_decoding_that_takes_longer_than_reading_is_worth_keeping_whoever_decodes(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: Any) -> np.ndarray:  # noqa: ANN401
        time.sleep(0.05)
        return read_rgb(*given)

    monkeypatch.setattr("graft.cache.lack.TRIED", 2)
    monkeypatch.setattr("graft.inputs.pixels.read_rgb", slowly)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert len(images.train) > 32  # so that others decode
    assert kept_pixels(images.source, images.train, LIGHT, CacheConfig()).store


def test_other_augmentations_of_the_same_size_find_the_same_pixels(images: Images, cache: Path) -> None:
    kept_pixels(images.source, images.train, LIGHT, CacheConfig())
    before = segments(cache)
    still = training_transform(AugmentationConfig(horizontal_flip=False), Preprocessing(256, 224))
    assert kept_pixels(images.source, images.train, still, CacheConfig()).store
    assert segments(cache) == before


# No larger than needed


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 1200), height=st.integers(1, 1200))
def test_a_large_image_is_made_smaller_and_a_small_one_is_left(width: int, height: int) -> None:
    small = LIGHT.fixed(torch.zeros(3, height, width, dtype=torch.uint8))
    assert LIGHT.at_least == 290
    assert min(small.shape[1:]) == min(width, height, 290)
    if min(width, height) <= 290:
        assert small.shape == (3, height, width)


def test_a_large_photograph_looks_the_same_when_less_of_it_is_decoded(tmp_path: Path) -> None:
    photograph(tmp_path / "large.jpg", 2400, 1800)
    whole = Reader(tmp_path, replace(LIGHT, at_least=None))("large.jpg", _sha256(tmp_path / "large.jpg"))
    less = Reader(tmp_path, LIGHT)("large.jpg", _sha256(tmp_path / "large.jpg"))
    assert whole.shape == less.shape == (3, 290, 386)
    assert (whole.float() - less.float()).abs().mean() < 1  # of 255 grey levels


def test_without_augmentation_every_pixel_counts(images: Images) -> None:
    exact = training_transform(AugmentationConfig(strength="none"), images.source.preprocessing)
    kept = kept_pixels(images.source, images.train, exact, CacheConfig())
    assert exact.at_least is None
    assert kept.store
    path, sha256 = images.train.iloc[0][["path", "sha256"]]
    assert torch.equal(kept(path, sha256), Reader(images.source.root, exact)(path, sha256))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
