"""What frozen layers give of each image: read from a store, or computed anew, with the same bits either way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from graft.cache.activations import ActivationStore
from graft.inputs.cut import AT_ONCE, Cut, FrozenLayers, Kind
from graft.inputs.datasets import Batch, Images, TrainingBatches, Views, view_batches, view_key
from graft.inputs.filling import StageLack, fill
from graft.inputs.pixels import Reader
from graft.training_config import LoopConfig


class FrozenViews(ABC):
    """What frozen layers give of each image in ``count`` views, rounded as ``cache.precision`` says."""

    count: int

    @abstractmethod
    def epoch(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, of the views that pixels would have, with these in place of pixels."""

    @abstractmethod
    def in_order(self, at_once: int) -> Iterator[Tensor]:
        """The first view of each image, so many at a time ``[at_once, ...]``."""


class StoredViews(FrozenViews):
    """They are read."""

    def __init__(self, store: ActivationStore, hashes: list[str], count: int) -> None:
        self.store, self.hashes, self.count = store, hashes, count

    def epoch(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """Read batch by batch."""
        self.store.touch()
        view = batches.variety.view
        for keys in batches.keys_of(epoch):
            rows = [row for _, row, _ in keys]
            given = self.read([(row, view(self.hashes[row], epoch, again)) for _, row, again in keys])
            yield given, batches.labels[rows], torch.tensor(rows)

    def in_order(self, at_once: int) -> Iterator[Tensor]:
        """Read so many at a time."""
        for start in range(0, len(self.hashes), at_once):
            yield self.read([(row, 0) for row in range(start, min(start + at_once, len(self.hashes)))])

    def read(self, views: list[tuple[int, int]]) -> Tensor:
        """What is stored of these, by row and number of the view ``[len(views), ...]``."""
        return self.store.read([view_key(self.hashes[row], number % self.count) for row, number in views])


class ComputedViews(FrozenViews):
    """They are computed whenever they are wanted: where keeping them does not pay, or there is no room."""

    def __init__(self, cut: Cut, kind: Kind, store: ActivationStore, rows: pd.DataFrame, count: int) -> None:
        self.frozen_layers, self.stage = FrozenLayers(cut, kind.compute, [cut.stage]), cut.stage
        self.rounded, self.count = store.rounded, count
        wanted = [(path, sha256, [0]) for path, sha256 in zip(rows["path"], rows["sha256"], strict=True)]
        self.first = Views(Reader(cut.source.root, kind.transform), wanted)

    def epoch(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """Decoded, augmented and computed batch by batch."""
        for crops, labels, rows in batches.epoch(epoch):
            yield self._of(crops), labels, rows

    def in_order(self, at_once: int) -> Iterator[Tensor]:
        """Decoded and computed so many at a time."""
        for crops, _ in view_batches(self.first, at_once):
            yield self._of(crops)

    def _of(self, crops: Tensor) -> Tensor:
        return torch.cat([
            self.rounded(self.frozen_layers(some)[self.stage]) for some in torch.split(crops, AT_ONCE)
        ])  # fmt: skip


def training_views(cut: Cut, rows: pd.DataFrame, epochs: int) -> FrozenViews:
    """Augmented views of training images, as many as epochs use or the config says; of a cut that can be kept."""
    return _views(cut, rows, Kind.augmented(cut), count_views(cut.loop, cut.stage, epochs))


def evaluation_views(cut: Cut, rows: pd.DataFrame) -> FrozenViews:
    """Images as the exported model sees them, computed in float32; of a cut that can be kept."""
    return _views(cut, rows, Kind.exact(cut), 1)


def compute_ahead(cut: Cut, images: Images, epochs: dict[str, int], judged: set[str]) -> None:
    """Compute in one pass what reaches several stages, each trained for so many epochs.

    That is, of training images as augmented, of validation images as the exported model sees them, and so of all
    images, which folds test, for the stages before which a ``judged`` model is cut.
    """
    for kind, rows, lacks in _ahead(cut, images, epochs, judged):
        fill(lacks, rows, kind)


def missing_ahead(cut: Cut, images: Images, epochs: dict[str, int], judged: set[str]) -> dict[str, int]:
    """How many views the same would compute for each stage; nothing is."""
    counts = dict.fromkeys(epochs, 0)
    for _, _, lacks in _ahead(cut, images, epochs, judged):
        for lack in lacks:
            lack.look()
            counts[lack.cut.stage] += len(lack.missing)
    return counts


def count_views(loop: LoopConfig, stage: str, epochs: int) -> int:
    """How many views of each image are made for so many epochs of training from a stage on."""
    strength, most = loop.augmentation.strength, loop.cache.views
    if strength == "none":
        return 1
    if stage == "head" and loop.cache.head_views != "auto":
        most = loop.cache.head_views
    elif stage == "head" and strength == "light":
        most = 1
    return min(most, epochs) if loop.sampling == "shuffled" else most


def _views(cut: Cut, rows: pd.DataFrame, kind: Kind, count: int) -> FrozenViews:
    lack = StageLack(cut, kind.store(cut), rows, count)
    fill([lack], rows, kind)
    if lack.given_up:
        return ComputedViews(cut, kind, lack.store, rows, count)
    return StoredViews(lack.store, list(rows["sha256"]), count)


def _ahead(
    cut: Cut, images: Images, epochs: dict[str, int], judged: set[str]
) -> Iterator[tuple[Kind, pd.DataFrame, list[StageLack]]]:
    every = pd.concat([images.train, images.validation])
    augmented, exact = Kind.augmented(cut), Kind.exact(cut)
    for kind, rows, wanted in (
        (augmented, images.train, {stage: count_views(cut.loop, stage, count) for stage, count in epochs.items()}),
        (exact, every, dict.fromkeys(judged, 1)),
        (exact, images.validation, dict.fromkeys(epochs.keys() - judged, 1)),
    ):
        cuts = [each for stage in wanted if (each := replace(cut, stage=stage)).can_be_kept]
        yield kind, rows, [StageLack(each, kind.store(each), rows, wanted[each.stage]) for each in cuts]
