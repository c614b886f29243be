"""Images of a manifest as batches of tensors."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler

from graft.inputs.pixels import Reader
from graft.networks.transforms import Preprocessing, evaluation_transform, training_transform
from graft.seeds import derive_seed, seeded
from graft.training_config import LoopConfig

Sampling = Literal["shuffled", "balanced"]
Read = tuple[str, Tensor, float]  # the SHA-256 of an image, what a reader gave of it, and in how many seconds
Batch = tuple[Tensor, Tensor, Tensor]  # uint8 [batch, 3, crop, crop], labels and row numbers int64 [batch]


@dataclass(frozen=True)
class ImageSource:
    """Where images lie and how their labels are numbered."""

    root: Path
    classes: list[str]
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Images:
    """The images of one training: rows with ``path, label, sha256``."""

    source: ImageSource
    train: pd.DataFrame
    validation: pd.DataFrame


Key = tuple[int, int, int]  # the epoch, the row, and how often it was drawn before in this epoch


@dataclass(frozen=True)
class Variety:
    """How an image differs each time that it is drawn: always anew, or in so many views, one after another."""

    seed: int
    views: int | None = None

    def view(self, sha256: str, epoch: int, again: int) -> int:
        """The number of the view that is drawn; the seed says with which an image begins."""
        assert self.views
        return (derive_seed(self.seed, sha256) + epoch + again) % self.views

    def seed_of(self, sha256: str, epoch: int, again: int) -> int:
        """The seed of the random transform that is drawn."""
        if self.views:
            return view_seed(sha256, self.view(sha256, epoch, again))
        return derive_seed(self.seed, epoch, sha256, again)


class _Images(Dataset[Batch]):
    """Items whose random transform depends on their key and the image's content alone."""

    def __init__(self, reader: Reader, rows: pd.DataFrame, classes: list[str], variety: Variety) -> None:
        self.reader = reader
        self.paths, self.hashes = list(rows["path"]), list(rows["sha256"])
        self.labels = [classes.index(label) for label in rows["label"]]
        self.variety = variety

    def __getitem__(self, key: Key) -> Batch:
        epoch, index, again = key
        image = self.reader(self.paths[index], self.hashes[index])
        with seeded(self.variety.seed_of(self.hashes[index], epoch, again)):
            crop = self.reader.transform.random(image)
        return crop, torch.tensor(self.labels[index]), torch.tensor(index)


class _InOrder(Sampler[Key]):
    """Every index once, in order."""

    def __init__(self, length: int) -> None:
        self.keys = [(0, index, 0) for index in range(length)]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)


class Shuffled(Sampler[Key]):
    """Indices anew in each epoch, by seed and epoch alone: each once, or every class equally often."""

    def __init__(self, labels: list[int], seed: int, sampling: Sampling) -> None:
        self.labels = np.array(labels)
        self.seed = seed
        self.sampling = sampling
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Key]:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.sampling == "balanced":
            share = 1.0 / np.bincount(self.labels)[self.labels]
            order = generator.choice(len(self.labels), len(self.labels), p=share / share.sum())
        else:
            order = generator.permutation(len(self.labels))
        drawn: Counter[int] = Counter()
        for index in map(int, order):
            yield self.epoch, index, drawn[index]
            drawn[index] += 1


class Views(Dataset[tuple[Tensor, list[str]]]):
    """Images, each decoded once and transformed in several ways.

    ``wanted`` holds paths, SHA-256 and numbers of views. An item is uint8 ``[views, 3, crop, crop]`` with a key
    for each, and depends on the image's content and the transform alone.
    """

    def __init__(self, reader: Reader, wanted: list[tuple[str, str, list[int]]]) -> None:
        self.reader, self.wanted = reader, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> tuple[Tensor, list[str]]:
        path, sha256, numbers = self.wanted[index]
        image = self.reader(path, sha256)
        views = []
        for number in numbers:
            with seeded(view_seed(sha256, number)):
                views.append(self.reader.transform.random(image))
        return torch.stack(views), [view_key(sha256, number) for number in numbers]


class _Read(Dataset[Read]):
    """Images as a reader gives them."""

    def __init__(self, reader: Reader, wanted: list[tuple[str, str]]) -> None:
        self.reader, self.wanted = reader, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Read:
        path, sha256 = self.wanted[index]
        begun = time.perf_counter()
        return sha256, self.reader(path, sha256), time.perf_counter() - begun


def view_key(sha256: str, number: int) -> str:
    """The name of a view of an image, whatever the image is called and wherever it lies."""
    return f"{sha256}:{number}"


def view_seed(sha256: str, number: int) -> int:
    """The seed of the random transform that makes a view."""
    return derive_seed("view", sha256, number)


class TrainingBatches:
    """Batches of training images, the same for the same variety and epoch.

    A last batch of a single image is left out: a batch norm cannot learn from it.
    """

    def __init__(
        self, source: ImageSource, rows: pd.DataFrame, loop: LoopConfig, variety: Variety,
        reader: Reader | None = None,
    ) -> None:  # fmt: skip
        reader = reader or Reader(source.root, training_transform(loop.augmentation, source.preprocessing))
        images = _Images(reader, rows, source.classes, variety)
        self.reader, self.variety = reader, variety
        self.labels = torch.tensor(images.labels)
        self.order = Shuffled(images.labels, variety.seed, loop.sampling)
        single = len(rows) % loop.batch_size == 1 and len(rows) > 1
        self.keys = _batched(self.order, loop.batch_size, drop_last=single)
        self.loader = _loader(images, self.keys, len(rows) > 4 * loop.batch_size)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        self.order.epoch = epoch
        yield from self.loader

    def keys_of(self, epoch: int) -> Iterator[list[Key]]:
        """What these batches are made of."""
        self.order.epoch = epoch
        yield from self.keys


def evaluation_batches(
    source: ImageSource, rows: pd.DataFrame, reader: Reader | None = None, batch_size: int = 16
) -> DataLoader[Batch]:
    """Batches in the order of the rows, as the exported model sees the images."""
    reader = reader or Reader(source.root, evaluation_transform(source.preprocessing))
    order = _batched(_InOrder(len(rows)), batch_size)
    many = len(rows) > 4 * batch_size and not reader.holds_all  # else there is nothing to do for workers
    return _loader(_Images(reader, rows, source.classes, Variety(0)), order, many)


def view_batches(views: Views, batch_size: int = 8) -> Iterator[tuple[Tensor, list[str]]]:
    """All views in order, those of so many images at a time."""
    order = _batched(SequentialSampler(views), batch_size)
    yield from _loader(views, order, len(views) > 4 * batch_size, collate_fn=_joined)


def read_batches(reader: Reader, wanted: list[tuple[str, str]], batch_size: int = 8) -> Iterator[list[Read]]:
    """Images of these paths and SHA-256 in order, before anything random becomes of them."""
    order = _batched(SequentialSampler(wanted), batch_size)
    yield from _loader(_Read(reader, wanted), order, len(wanted) > 4 * batch_size, collate_fn=list)


def _batched(order: Sampler[Any], size: int, drop_last: bool = False) -> Sampler[list[Any]]:
    return BatchSampler(order, size, drop_last)


def _joined(items: list[tuple[Tensor, list[str]]]) -> tuple[Tensor, list[str]]:
    return torch.cat([views for views, _ in items]), [key for _, keys in items for key in keys]


def _loader(
    images: Dataset[Any], order: Sampler[Any], many: bool, collate_fn: Callable[[list[Any]], Any] | None = None
) -> DataLoader[Any]:
    workers = min((os.cpu_count() or 1) // 2, 8) if many else 0
    # A generator of its own: else starting workers would draw from torch's, and shift all that follows.
    return DataLoader(
        images, batch_sampler=order, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(), collate_fn=collate_fn, generator=torch.Generator(),
    )  # fmt: skip
