"""Images of a manifest as batches of tensors, reproducible by seed, epoch and image content."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from graft.config.training import TrainLoopConfig
from graft.features.image_loader import ImageLoader
from graft.features.image_reader import ImageReader
from graft.models.transforms import Preprocessing, evaluation_transform, training_transform
from graft.seeds import derive_seed, seeded

Sampling = Literal["shuffled", "balanced"]
Sample = tuple[int, int, int]  # epoch, index of the image, how often it was drawn before in this epoch
TimedImage = tuple[str, Tensor, float]  # SHA-256, image uint8 [3, height, width], seconds it took to read
Batch = tuple[Tensor, Tensor, Tensor]  # images uint8 [batch, 3, crop, crop], labels and indices int64 [batch]


@dataclass(frozen=True)
class DatasetInfo:
    """The folder of the images, the class names in the order of their labels, and the preprocessing."""

    root: Path
    classes: list[str]
    preprocessing: Preprocessing

    def class_indices(self, labels: pd.Series) -> np.ndarray:
        """The index in ``classes`` of each label: int64 ``[len(labels)]``."""
        indices = {name: index for index, name in enumerate(self.classes)}
        return np.array([indices[label] for label in labels], dtype=np.int64)


@dataclass(frozen=True)
class TrainingImages:
    """The records ``path, label, sha256`` of the images that train a model and that validate it."""

    dataset: DatasetInfo
    train: pd.DataFrame
    validation: pd.DataFrame


@dataclass(frozen=True)
class AugmentationSeeds:
    """Seeds of the augmentation: a new one for every draw, or with ``views``, that many fixed ones in turn."""

    seed: int
    views: int | None = None

    def view_number(self, sha256: str, epoch: int, repeat: int) -> int:
        """The number of the drawn view, 0 to ``views`` - 1; images start at different ones."""
        assert self.views
        return (derive_seed(self.seed, sha256) + epoch + repeat) % self.views

    def seed_for(self, sha256: str, epoch: int, repeat: int) -> int:
        """The seed of the random transform."""
        if self.views:
            return view_seed(sha256, self.view_number(sha256, epoch, repeat))
        return derive_seed(self.seed, epoch, sha256, repeat)


def view_key(sha256: str, number: int) -> str:
    """The key of a view in a feature store, independent of the image's path.

    View 0 is an augmented view in a store of training features, and the centre crop in one of evaluation features.
    """
    return f"{sha256}:{number}"


def view_seed(sha256: str, number: int) -> int:
    """The seed of the random transform that makes a view."""
    return derive_seed("view", sha256, number)


class _LabelledImages(Dataset[Batch]):
    """Augmented images with labels; the augmentation depends on the sample and the image's content alone."""

    def __init__(
        self, reader: ImageReader, records: pd.DataFrame, dataset: DatasetInfo, seeds: AugmentationSeeds
    ) -> None:
        self.reader = reader
        self.paths, self.hashes = list(records["path"]), list(records["sha256"])
        self.labels = dataset.class_indices(records["label"]).tolist()
        self.seeds = seeds

    def __getitem__(self, sample: Sample) -> Batch:
        epoch, index, repeat = sample
        image = self.reader(self.paths[index], self.hashes[index])
        with seeded(self.seeds.seed_for(self.hashes[index], epoch, repeat)):
            crop = self.reader.transform.random(image)
        return crop, torch.tensor(self.labels[index]), torch.tensor(index)


class EpochSampler(Sampler[Sample]):
    """A new order in each epoch, by seed and epoch alone: each image once, or every class equally often."""

    def __init__(self, labels: list[int], seed: int, sampling: Sampling) -> None:
        self.labels = np.array(labels)
        self.seed = seed
        self.sampling = sampling
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Sample]:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.sampling == "balanced":
            weights = 1.0 / np.bincount(self.labels)[self.labels]
            order = generator.choice(len(self.labels), len(self.labels), p=weights / weights.sum())
        else:
            order = generator.permutation(len(self.labels))
        drawn: Counter[int] = Counter()
        for index in map(int, order):
            yield self.epoch, index, drawn[index]
            drawn[index] += 1


class ImageViews(Dataset[tuple[Tensor, list[str]]]):
    """Images, each decoded once and augmented in several views.

    ``requested`` has path, SHA-256 and view numbers of each image. An item is uint8 ``[views, 3, crop, crop]``
    and the cache key of each view.
    """

    def __init__(self, reader: ImageReader, requested: list[tuple[str, str, list[int]]]) -> None:
        self.reader, self.requested = reader, requested

    def __len__(self) -> int:
        return len(self.requested)

    def __getitem__(self, index: int) -> tuple[Tensor, list[str]]:
        path, sha256, numbers = self.requested[index]
        image = self.reader(path, sha256)
        views = []
        for number in numbers:
            with seeded(view_seed(sha256, number)):
                views.append(self.reader.transform.random(image))
        return torch.stack(views), [view_key(sha256, number) for number in numbers]


class _TimedImages(Dataset[TimedImage]):
    """Images before augmentation, with the seconds that reading took."""

    def __init__(self, reader: ImageReader, requested: list[tuple[str, str]]) -> None:
        self.reader, self.requested = reader, requested

    def __len__(self) -> int:
        return len(self.requested)

    def __getitem__(self, index: int) -> TimedImage:
        path, sha256 = self.requested[index]
        started = time.perf_counter()
        return sha256, self.reader(path, sha256), time.perf_counter() - started


class TrainingBatches:
    """Batches of training images, the same for the same seeds and epoch.

    A last batch of a single image is dropped: batch norm in train mode cannot normalise it.
    """

    def __init__(
        self,
        dataset: DatasetInfo,
        records: pd.DataFrame,
        train_config: TrainLoopConfig,
        seeds: AugmentationSeeds,
        reader: ImageReader | None = None,
    ) -> None:
        transform = training_transform(train_config.augmentation, dataset.preprocessing)
        self.reader, self.seeds = reader or ImageReader(dataset.root, transform), seeds
        images = _LabelledImages(self.reader, records, dataset, seeds)
        self.labels = torch.tensor(images.labels)
        self.sampler = EpochSampler(images.labels, seeds.seed, train_config.sampling)
        batch_size = train_config.batch_size
        single = len(records) % batch_size == 1 and len(records) > 1
        self.batch_sampler = _batched(self.sampler, batch_size, drop_last=single)
        self.loader = _loader(images, self.batch_sampler, parallel=len(records) > 4 * batch_size)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        self.sampler.epoch = epoch
        yield from self.loader

    def samples(self, epoch: int) -> Iterator[list[Sample]]:
        """The samples of each batch of ``epoch``, without reading any image."""
        self.sampler.epoch = epoch
        yield from self.batch_sampler


def evaluation_batches(
    dataset: DatasetInfo, records: pd.DataFrame, reader: ImageReader | None = None, batch_size: int = 16
) -> DataLoader[Batch]:
    """Batches of centre crops in the order of the records, as the exported model sees them."""
    reader = reader or ImageReader(dataset.root, evaluation_transform(dataset.preprocessing))
    batch_sampler = _batched([(0, index, 0) for index in range(len(records))], batch_size)
    parallel = len(records) > 4 * batch_size and not reader.holds_all  # otherwise workers would have nothing to decode
    images = _LabelledImages(reader, records, dataset, AugmentationSeeds(0))
    return _loader(images, batch_sampler, parallel=parallel)


def view_batches(views: ImageViews, batch_size: int = 8) -> Iterator[tuple[Tensor, list[str]]]:
    """All views and their keys in order, those of ``batch_size`` images at a time."""
    batch_sampler = _batched(range(len(views)), batch_size)
    yield from _loader(views, batch_sampler, parallel=len(views) > 4 * batch_size, collate_fn=_concatenated)


def image_batches(
    reader: ImageReader, requested: list[tuple[str, str]], batch_size: int = 8
) -> Iterator[list[TimedImage]]:
    """The images of these paths and SHA-256 in order, before augmentation."""
    batch_sampler = _batched(range(len(requested)), batch_size)
    images = _TimedImages(reader, requested)
    yield from _loader(images, batch_sampler, parallel=len(requested) > 4 * batch_size, collate_fn=list)


def _batched(samples: Iterable[Any], size: int, *, drop_last: bool = False) -> Sampler[list[Any]]:
    return BatchSampler(samples, size, drop_last)


def _concatenated(items: list[tuple[Tensor, list[str]]]) -> tuple[Tensor, list[str]]:
    return torch.cat([views for views, _ in items]), [key for _, keys in items for key in keys]


def _loader(
    images: Dataset[Any],
    batch_sampler: Sampler[Any],
    *,
    parallel: bool,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    workers = min((os.cpu_count() or 1) // 2, 8) if parallel else 0
    # With its own generator, starting workers draws nothing from torch's global one.
    return ImageLoader(
        images, batch_sampler=batch_sampler, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(), collate_fn=collate_fn, generator=torch.Generator(),
    )  # fmt: skip
