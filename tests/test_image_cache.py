"""Cached images are the same as decoded ones, and large images are decoded no larger than needed."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import re
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

from graft.config.training import AugmentationConfig, CacheConfig, TrainLoopConfig
from graft.data.images import read_rgb
from graft.features.image_cache import cached_eval_reader, cached_reader
from graft.features.image_reader import ImageReader
from graft.features.loaders import TrainingImages
from graft.models.backbones import build_model
from graft.models.transforms import Preprocessing, training_transform
from graft.training.history import EpochMetrics, Phase
from graft.training.loop import TrainResult, train

LIGHT = training_transform(AugmentationConfig(), Preprocessing(256, 224))
PHASE = Phase("finetune", 2, 1e-4, 0.5, (0,))
CUTMIX = {"strength": "light", "cutmix_alpha": 1.0}  # with which features cannot be cached


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    # Test images are so small that reading the cache may take longer than decoding.
    monkeypatch.setattr("graft.cache.writer.BENCHMARK_BATCHES", None)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def images(digits: Path) -> TrainingImages:
    """Four of each digit to train on, two to validate."""
    return few_digits(digits, 4, 2)


def run(images: TrainingImages, **values: Any) -> TrainResult:  # noqa: ANN401
    train_config = TrainLoopConfig.model_validate({"batch_size": 16, "augmentation": CUTMIX} | values)
    start = TrainResult(build_model(MODEL, 10, seed=0))
    return train(start, PHASE, train_config, images, seed=0, on_epoch_end=lambda *_: None)


def max_difference(result: TrainResult, other: TrainResult) -> float:
    pairs = zip(result.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def use_empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use another cache folder from now on."""
    monkeypatch.setenv("GRAFT_CACHE", os.environ["GRAFT_CACHE"] + "2")


def segments(cache: Path) -> list[Path]:
    return sorted(cache.glob("tensors/*/*.safetensors"))


def write_photograph(path: Path, width: int, height: int) -> None:
    """Write a JPEG with both coarse and fine structures."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(40 * x * (1 + y)), np.cos(25 * y), x * y]
    Image.fromarray((np.stack(waves, axis=2) * 100 + 120).astype(np.uint8)).save(path, quality=90)


# Cached or decoded


def test_cached_images_train_the_same_weights_bit_for_bit(
    images: TrainingImages, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = run(images)
    assert segments(cache)
    use_empty_cache(monkeypatch)
    assert max_difference(run(images, cache={"max_gb": 0}), cached) == 0


def test_image_is_decoded_once(images: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few that they are decoded in this process.
    images = replace(images, train=images.train.groupby("label").head(3))
    decoded: list[Path] = []

    def recording_read_rgb(path: Path, *args: Any) -> np.ndarray:  # noqa: ANN401
        decoded.append(path)
        return read_rgb(path, *args)

    monkeypatch.setattr("graft.features.image_reader.read_rgb", recording_read_rgb)
    run(images)
    assert len(decoded) == len({*decoded}) == len(images.train) + len(images.validation)
    run(images, batch_size=8)
    assert len(decoded) == len(images.train) + len(images.validation)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError("read-only")])
def test_training_does_not_change_without_writable_cache(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    expected = run(images)
    use_empty_cache(monkeypatch)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("graft.cache.tensor_store.write_atomically", fail)
    assert max_difference(run(images), expected) == 0
    assert "Decoded images are computed again each time, not cached" in caplog.text


def test_damaged_cached_images_are_decoded_again(images: TrainingImages, cache: Path) -> None:
    expected = run(images)
    for path in (cache / "training").iterdir():
        path.unlink()
    for path in segments(cache):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    assert max_difference(run(images), expected) == 0


def test_cache_without_room_for_any_image_is_not_used(
    images: TrainingImages, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = cached_eval_reader(images.dataset, images.train, CacheConfig(max_gb=1e-6))
    assert reader.store is None
    assert "raise it" in caplog.text
    assert not segments(cache)


def test_images_that_do_not_fit_the_cache_are_read_from_files(
    images: TrainingImages, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="graft.cache.writer")
    monkeypatch.setattr("graft.cache.writer.SEGMENT_BYTES", 1)
    complete = cached_reader(images.dataset, images.train, LIGHT, CacheConfig())
    assert complete.holds_all
    size = sum(path.stat().st_size for path in segments(cache))
    use_empty_cache(monkeypatch)
    for _ in range(2):  # the second time, some are cached already
        partial = cached_reader(images.dataset, images.train, LIGHT, CacheConfig(max_gb=size / 2 / 1e9))
        assert partial.store is not None
        assert not partial.holds_all
        assert 0 < len(partial.store.missing(list(images.train["sha256"]))) < len(images.train)
        for path, sha256 in zip(images.train["path"], images.train["sha256"], strict=True):
            assert torch.equal(partial(path, sha256), complete(path, sha256))
    assert re.search(r"Decoded images are cached for \d+ images only", caplog.text)


def test_reader_in_another_process_maps_the_cache_or_reads_files(
    images: TrainingImages, cache: Path, tmp_path: Path
) -> None:
    path, sha256 = images.train.iloc[0][["path", "sha256"]]
    reader = cached_reader(images.dataset, images.train, LIGHT, CacheConfig())
    expected = reader(path, sha256)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        without_files = replace(reader, root=tmp_path / "nowhere")
        assert torch.equal(process.submit(without_files, path, sha256).result(), expected)
        for segment in segments(cache):
            segment.unlink()
        assert torch.equal(process.submit(reader, path, sha256).result(), expected)


def test_training_marks_its_segments_as_used(images: TrainingImages, cache: Path) -> None:
    start = time.time()

    def age(_: Phase, epoch: int, __: EpochMetrics) -> None:
        for path in segments(cache) if epoch == 0 else ():
            os.utime(path, (1000, 1000))

    train_config = TrainLoopConfig.model_validate({"batch_size": 16, "augmentation": CUTMIX})
    train(TrainResult(build_model(MODEL, 10, seed=0)), PHASE, train_config, images, seed=0, on_epoch_end=age)
    assert all(path.stat().st_mtime >= start for path in segments(cache))


def test_images_are_cached_if_decoding_in_workers_is_slower_than_reading(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_read_rgb(*args: Any) -> np.ndarray:  # noqa: ANN401
        time.sleep(0.05)
        return read_rgb(*args)

    monkeypatch.setattr("graft.cache.writer.BENCHMARK_BATCHES", 2)
    monkeypatch.setattr("graft.features.image_reader.read_rgb", slow_read_rgb)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert len(images.train) > 32  # so many that workers decode them
    assert cached_reader(images.dataset, images.train, LIGHT, CacheConfig()).store


def test_cached_images_are_shared_by_augmentations_with_the_same_fixed_part(
    images: TrainingImages, cache: Path
) -> None:
    cached_reader(images.dataset, images.train, LIGHT, CacheConfig())
    before = segments(cache)
    without_flip = training_transform(AugmentationConfig(horizontal_flip=False), Preprocessing(256, 224))
    assert cached_reader(images.dataset, images.train, without_flip, CacheConfig()).store
    assert segments(cache) == before


# Decoded size


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 1200), height=st.integers(1, 1200))
def test_fixed_part_shrinks_large_images_only(width: int, height: int) -> None:
    fixed = LIGHT.fixed(torch.zeros(3, height, width, dtype=torch.uint8))
    assert LIGHT.min_side_px == 379
    assert min(fixed.shape[1:]) == min(width, height, 379)
    if min(width, height) <= 379:
        assert fixed.shape == (3, height, width)


def test_photograph_decoded_at_reduced_size_looks_the_same(tmp_path: Path) -> None:
    write_photograph(tmp_path / "large.jpg", 2400, 1800)
    full = ImageReader(tmp_path, replace(LIGHT, min_side_px=None))("large.jpg", _sha256(tmp_path / "large.jpg"))
    reduced = ImageReader(tmp_path, LIGHT)("large.jpg", _sha256(tmp_path / "large.jpg"))
    assert full.shape == reduced.shape == (3, 379, 505)
    assert (full.float() - reduced.float()).abs().mean() < 1  # of 255 grey levels


def test_images_without_augmentation_are_decoded_at_full_size(images: TrainingImages) -> None:
    exact = training_transform(AugmentationConfig(strength="none"), images.dataset.preprocessing)
    reader = cached_reader(images.dataset, images.train, exact, CacheConfig())
    assert exact.min_side_px is None
    assert reader.store
    path, sha256 = images.train.iloc[0][["path", "sha256"]]
    assert torch.equal(reader(path, sha256), ImageReader(images.dataset.root, exact)(path, sha256))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
