"""Images of a manifest as batches of tensors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from graft.images import read_rgb
from graft.seeds import derive_seed, seeded
from graft.training_config import LoopConfig
from graft.transforms import Preprocessing, for_evaluation, for_training

Sampling = Literal["shuffled", "balanced"]
Batch = tuple[Tensor, Tensor, Tensor]  # uint8 [batch, 3, crop, crop], labels and row numbers int64 [batch]


@dataclass(frozen=True)
class ImageSource:
    """Where images lie and how their labels are numbered."""

    root: Path
    classes: list[str]
    preprocessing: Preprocessing


Key = tuple[int, int, int]  # the epoch, the row, and how often it was drawn before in this epoch


class _Images(Dataset[Batch]):
    """Items whose random transform depends on the seed, their key and the image's content alone."""

    def __init__(
        self, source: ImageSource, rows: pd.DataFrame, transform: Callable[[Tensor], Tensor], seed: int
    ) -> None:
        self.paths = [source.root / path for path in rows["path"]]
        self.hashes = list(rows["sha256"])
        self.labels = [source.classes.index(label) for label in rows["label"]]
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: Key) -> Batch:
        epoch, index, again = key
        image = torch.from_numpy(np.array(read_rgb(self.paths[index], self.hashes[index]))).permute(2, 0, 1)
        with seeded(derive_seed(self.seed, epoch, self.hashes[index], again)):
            return self.transform(image), torch.tensor(self.labels[index]), torch.tensor(index)


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


class TrainingBatches:
    """Batches of training images, the same for the same seed and epoch.

    A last batch of a single image is left out: a batch norm cannot learn from it.
    """

    def __init__(self, source: ImageSource, rows: pd.DataFrame, loop: LoopConfig, seed: int) -> None:
        transform = for_training(
            loop.augmentation.strength, loop.augmentation.horizontal_flip, source.preprocessing
        )
        images = _Images(source, rows, transform, seed)
        self.order = Shuffled(images.labels, seed, loop.sampling)
        single = len(rows) % loop.batch_size == 1 and len(rows) > 1
        self.loader = _loader(images, loop.batch_size, self.order, drop_last=single)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        self.order.epoch = epoch
        yield from self.loader


def evaluation_batches(source: ImageSource, rows: pd.DataFrame, batch_size: int = 16) -> DataLoader[Batch]:
    """Batches in the order of the rows, as the exported model sees the images."""
    prepare = partial(for_evaluation, preprocessing=source.preprocessing)
    return _loader(_Images(source, rows, prepare, 0), batch_size, _InOrder(len(rows)))


def _loader(images: _Images, batch_size: int, order: Sampler[Key], drop_last: bool = False) -> DataLoader[Batch]:
    workers = min((os.cpu_count() or 1) // 2, 8) if len(images.paths) > 4 * batch_size else 0
    # A generator of its own: else starting workers would draw from torch's, and shift all that follows.
    return DataLoader(
        images, batch_size, sampler=order, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(), drop_last=drop_last,
        generator=torch.Generator(),
    )  # fmt: skip
