"""Batches of augmented training images: sampling and random augmentation."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from few_digits import few_digits

from graft.config.training import AugmentationConfig, TrainLoopConfig
from graft.errors import DataError
from graft.features.loaders import AugmentationSeeds, TrainingBatches, TrainingImages

PLAIN, STRONG = AugmentationConfig(horizontal_flip=False), AugmentationConfig(strength="strong")


@pytest.fixture(scope="module")
def images(digits: Path) -> TrainingImages:
    return few_digits(digits, train=20, validation=20)


def test_class_indices_follow_the_order_of_the_classes(images: TrainingImages) -> None:
    dataset = replace(images.dataset, classes=["cat", "ant", "bee"])
    assert dataset.class_indices(pd.Series(["bee", "cat", "ant", "bee"])).tolist() == [2, 0, 1, 2]
    with pytest.raises(KeyError):
        dataset.class_indices(pd.Series(["dog"]))


def make_batches(images: TrainingImages, **values: Any) -> TrainingBatches:  # noqa: ANN401
    config = TrainLoopConfig.model_validate({"batch_size": 16, "augmentation": PLAIN} | values)
    return TrainingBatches(images.dataset, images.train, config, AugmentationSeeds(seed=5))


def test_training_batches_depend_on_seed_and_epoch_only(images: TrainingImages) -> None:
    first, second = (make_batches(images, batch_size=200, augmentation=STRONG) for _ in range(2))
    pixels, same_epoch, next_epoch = (next(epoch)[0] for epoch in (first.epoch(3), second.epoch(3), first.epoch(4)))
    assert torch.equal(pixels, same_epoch)
    assert not torch.equal(pixels, next_epoch)


def test_balanced_sampling_draws_every_class_equally_often(images: TrainingImages) -> None:
    records = images.train
    lopsided = replace(images, train=records[(records["label"] == "0") | (records["path"].str.endswith("0.png"))])
    balanced = torch.cat([labels for _, labels, _ in make_batches(lopsided, sampling="balanced").epoch(0)])
    shuffled = torch.cat([labels for _, labels, _ in make_batches(lopsided).epoch(0)])
    assert sorted(shuffled.tolist()) == sorted(int(label) for label in lopsided.train["label"])
    assert (balanced == 0).sum() < (shuffled == 0).sum() / 2


def test_training_batches_never_hold_a_single_image(images: TrainingImages) -> None:
    batches = make_batches(replace(images, train=images.train.head(17)))
    assert [len(labels) for _, labels, _ in batches.epoch(0)] == [16]


def test_image_drawn_twice_in_an_epoch_is_augmented_differently(images: TrainingImages) -> None:
    records = images.train.groupby("label").head(1)
    repeated = replace(images, train=pd.concat([records.iloc[[0]], *[records.iloc[[1]]] * 3]))
    batches = make_batches(repeated, augmentation=STRONG, sampling="balanced", batch_size=4)
    pixels, labels, indices = next(batches.epoch(2))
    assert len(labels) == 4
    assert len({(int(index), crop.numpy().tobytes()) for index, crop in zip(indices, pixels, strict=True)}) == 4


def test_error_in_a_worker_is_the_sentence_about_the_file(digits: Path, tmp_path: Path) -> None:
    images = few_digits(digits, train=8, validation=1)
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    gone = folder / images.train["path"].iloc[-1]
    gone.unlink()
    dataset = replace(images.dataset, root=folder)
    batches = TrainingBatches(dataset, images.train, TrainLoopConfig(batch_size=16), AugmentationSeeds(0))
    assert batches.loader.num_workers > 0 or (os.cpu_count() or 1) == 1
    with pytest.raises(DataError) as error:
        list(batches.epoch(0))
    assert str(error.value) == f"{gone}: cannot be read (No such file or directory); run the same command again."
