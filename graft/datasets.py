"""Images of a manifest as batches of tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from graft.images import read_rgb
from graft.seeds import derive_seed, seeded
from graft.transforms import Preprocessing, for_evaluation

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ImageSource:
    """Where images lie and how their labels are numbered."""

    root: Path
    classes: list[str]
    preprocessing: Preprocessing


class _Images(Dataset[Batch]):
    """Items are asked for by (epoch, index): the random transform depends on seed, epoch and image alone."""

    def __init__(
        self, source: ImageSource, rows: pd.DataFrame, transform: Callable[[Tensor], Tensor], seed: int
    ) -> None:
        self.paths = [source.root / path for path in rows["path"]]
        self.hashes = list(rows["sha256"])
        self.labels = [source.classes.index(label) for label in rows["label"]]
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        image = torch.from_numpy(np.array(read_rgb(self.paths[index], self.hashes[index]))).permute(2, 0, 1)
        with seeded(derive_seed(self.seed, epoch, self.hashes[index])):
            return self.transform(image), torch.tensor(self.labels[index])


class _Order(Sampler[tuple[int, int]]):
    """Every index once an epoch, shuffled anew by seed and epoch, or in order."""

    def __init__(self, length: int, seed: int | None) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        epoch, self.epoch = self.epoch, self.epoch + 1
        return iter([(epoch, int(index)) for index in order])


def training_batches(
    source: ImageSource, rows: pd.DataFrame, transform: Callable[[Tensor], Tensor], batch_size: int, seed: int
) -> DataLoader[Batch]:
    """Shuffled batches of uint8 ``[batch, 3, crop, crop]`` and int64 ``[batch]``, anew in each iteration."""
    return _loader(_Images(source, rows, transform, seed), batch_size, _Order(len(rows), seed))


def evaluation_batches(source: ImageSource, rows: pd.DataFrame, batch_size: int = 16) -> DataLoader[Batch]:
    """Batches in the order of the rows, as the exported model sees the images."""
    prepare = partial(for_evaluation, preprocessing=source.preprocessing)
    return _loader(_Images(source, rows, prepare, 0), batch_size, _Order(len(rows), None))


def _loader(images: _Images, batch_size: int, order: _Order) -> DataLoader[Batch]:
    workers = min((os.cpu_count() or 1) // 2, 8) if len(images.paths) > 4 * batch_size else 0
    return DataLoader(
        images, batch_size, sampler=order, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
