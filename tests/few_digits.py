"""A few handwritten digits to train on, and fewer to validate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graft.config import ModelConfig, SplitConfig
from graft.data.manifest import scan
from graft.data.splits import split_images
from graft.inputs.datasets import Images
from graft.networks.backbones import preprocessing
from graft.recipe import images_of

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")


def few_digits(folder: Path, train: int, validation: int) -> Images:
    """So many of each digit, each image a cluster of its own."""
    manifest = scan(folder)
    clusters = {path: number for number, path in enumerate(manifest.table["path"])}
    every = images_of(manifest.folder(), split_images(manifest, clusters, SplitConfig()), preprocessing(MODEL))
    few = every.validation.groupby("label").head(validation)
    return replace(every, train=every.train.groupby("label").head(train), validation=few)
