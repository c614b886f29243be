"""A small training set of handwritten digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graft.config.parameters import ModelConfig, SplitConfig
from graft.data.manifest import scan
from graft.data.splits import split_images
from graft.features.loaders import TrainingImages
from graft.models.backbones import preprocessing_for
from graft.training.recipe import training_images

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")


def few_digits(folder: Path, train: int, validation: int) -> TrainingImages:
    """``train`` and, after them, ``validation`` training images of each digit, each a cluster of its own."""
    manifest = scan(folder)
    clusters = {path: number for number, path in enumerate(manifest.table["path"])}
    images = training_images(split_images(manifest, clusters, SplitConfig()), preprocessing_for(MODEL))
    number = images.train.groupby("label").cumcount()
    is_train = number < train
    return replace(
        images, train=images.train[is_train], validation=images.train[~is_train & (number < train + validation)]
    )
