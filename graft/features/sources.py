"""Batches of features: read from the cache, or computed again with the same bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor

from graft.features.feature_store import FeatureStore
from graft.features.image_reader import ImageReader
from graft.features.loaders import Batch, ImageViews, TrainingBatches, view_batches, view_key
from graft.features.split_model import FEATURE_BATCH_SIZE, FeatureSpec, FrozenLayers, SplitModel


class FeatureSource(ABC):
    """Features of each image in ``views`` augmented views, rounded to ``cache.precision``."""

    views: int

    @abstractmethod
    def epoch(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, with the features of the views that ``batches`` would draw."""

    @abstractmethod
    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """The first view of each image in the order of the records, ``[batch_size, ...]`` at a time."""


class CachedFeatures(FeatureSource):
    """Features read from a store."""

    def __init__(self, store: FeatureStore, hashes: list[str], views: int) -> None:
        self.store, self.hashes, self.views = store, hashes, views

    def epoch(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """Read batch by batch."""
        self.store.mark_used()
        view_number = batches.seeds.view_number
        for samples in batches.samples(epoch):
            indices = [index for _, index, _ in samples]
            features = self.read([(index, view_number(self.hashes[index], epoch, repeat))
                                  for _, index, repeat in samples])  # fmt: skip
            yield features, batches.labels[indices], torch.tensor(indices)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Read ``batch_size`` at a time."""
        for start in range(0, len(self.hashes), batch_size):
            yield self.read([(index, 0) for index in range(start, min(start + batch_size, len(self.hashes)))])

    def read(self, views: list[tuple[int, int]]) -> Tensor:
        """Features ``[len(views), ...]`` by the index of the image and the number of the view."""
        return self.store.read([view_key(self.hashes[index], number % self.views) for index, number in views])


class RecomputedFeatures(FeatureSource):
    """Features computed whenever they are read, because caching is slower or the cache has no room."""

    def __init__(
        self, split_model: SplitModel, spec: FeatureSpec, store: FeatureStore, records: pd.DataFrame, views: int
    ) -> None:
        self.frozen_layers = FrozenLayers(split_model, spec.compute, [split_model.split_stage])
        self.split_stage, self.round_trip, self.views = split_model.split_stage, store.round_trip, views
        requested = [(path, sha256, [0]) for path, sha256 in zip(records["path"], records["sha256"], strict=True)]
        self.first_views = ImageViews(ImageReader(split_model.dataset.root, spec.transform), requested)

    def epoch(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """Decode, augment and compute batch by batch."""
        for crops, labels, indices in batches.epoch(epoch):
            yield self._compute(crops), labels, indices

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Decode and compute ``batch_size`` at a time."""
        for crops, _ in view_batches(self.first_views, batch_size):
            yield self._compute(crops)

    def _compute(self, crops: Tensor) -> Tensor:
        parts = torch.split(crops, FEATURE_BATCH_SIZE)
        return torch.cat([self.round_trip(self.frozen_layers(part)[self.split_stage]) for part in parts])
