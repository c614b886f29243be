"""Fills the feature cache: the calls after which features can be read instead of computed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from graft.cache.writer import CacheWriter, fill_missing
from graft.compute.memory import trim_between
from graft.features.feature_store import FeatureStore
from graft.features.image_reader import ImageReader
from graft.features.loaders import ImageViews, TrainingImages, view_batches, view_key
from graft.features.sources import CachedFeatures, FeatureSource, RecomputedFeatures
from graft.features.split_model import FEATURE_BATCH_SIZE, FeatureSpec, FrozenLayers, SplitModel

logger = logging.getLogger(__name__)


def cache_training_features(split_model: SplitModel, records: pd.DataFrame, epochs: int) -> FeatureSource:
    """Fill the cache with views of training images, for ``epochs`` epochs; returns their source.

    ``split_model`` must be cacheable. The views are those of ``FeatureSpec.for_training`` and ``count_views``.
    """
    return _cache_features(
        split_model, records, FeatureSpec.for_training(split_model), count_views(split_model, epochs)
    )


def cache_evaluation_features(split_model: SplitModel, records: pd.DataFrame) -> FeatureSource:
    """Fill the cache with centre crops, computed in float32; returns their source. It must be cacheable."""
    return _cache_features(split_model, records, FeatureSpec.for_evaluation(split_model), views=1)


def precompute(split_model: SplitModel, images: TrainingImages, epochs: dict[str, int], tested: set[str]) -> None:
    """Fill the cache ahead of time for several split stages, in one pass over the images for each kind of view.

    ``epochs`` maps each split stage to the epochs trained from it. ``tested`` holds the stages from which finished
    models are evaluated on test folds, and so on any image. Nothing is computed that is cached already.
    """
    for spec, records, writers in _planned_writers(split_model, images, epochs, tested):
        _fill(writers, records, spec)


def count_missing_features(
    split_model: SplitModel, images: TrainingImages, epochs: dict[str, int], tested: set[str]
) -> dict[str, int]:
    """The number of features that ``precompute`` would compute for each split stage; computes none."""
    counts = dict.fromkeys(epochs, 0)
    for _, _, writers in _planned_writers(split_model, images, epochs, tested):
        for writer in writers:
            writer.find_missing()
            counts[writer.split_model.split_stage] += len(writer.missing)
    return counts


def count_views(split_model: SplitModel, epochs: int) -> int:
    """The number of views of each image that are cached to train a model for ``epochs`` epochs."""
    config, views = split_model.train_config, split_model.train_config.cache.views
    if config.augmentation.strength == "none" or split_model.trains_on_crops:
        return 1
    if split_model.split_stage == "head" and config.cache.head_views != "auto":
        views = config.cache.head_views
    return min(views, epochs) if config.sampling == "shuffled" else views


class FeatureWriter(CacheWriter):
    """Writes the features of a split model, for ``views`` views of each image."""

    store: FeatureStore

    def __init__(self, split_model: SplitModel, store: FeatureStore, records: pd.DataFrame, views: int) -> None:
        keys = [view_key(sha256, number) for sha256 in records["sha256"] for number in range(views)]
        super().__init__(f"Features before {split_model.split_stage} are", store, keys)
        self.split_model, self.views = split_model, views

    def write_features(self, keys: list[str], features: Tensor, seconds_each: float) -> None:
        """Write those of a batch float32 ``[len(keys), ...]`` that are missing."""
        indices = self.indices_to_write(keys)
        if not features[indices].isfinite().all():
            self.disable("values are not finite")
        elif indices:
            self.write([keys[index] for index in indices], self.store.encode(features[indices]), seconds_each)


def _cache_features(split_model: SplitModel, records: pd.DataFrame, spec: FeatureSpec, views: int) -> FeatureSource:
    writer = FeatureWriter(split_model, spec.store(split_model), records, views)
    _fill([writer], records, spec)
    if writer.disabled:
        return RecomputedFeatures(split_model, spec, writer.store, records, views)
    return CachedFeatures(writer.store, list(records["sha256"]), views)


def _planned_writers(
    split_model: SplitModel, images: TrainingImages, epochs: dict[str, int], tested: set[str]
) -> Iterator[tuple[FeatureSpec, pd.DataFrame, list[FeatureWriter]]]:
    all_records = pd.concat([images.train, images.validation])
    augmented, exact = FeatureSpec.augmented(split_model), FeatureSpec.for_evaluation(split_model)
    trained = {stage: replace(split_model, split_stage=stage) for stage in epochs}
    views = {stage: count_views(model, epochs[stage]) for stage, model in trained.items() if not model.trains_on_crops}
    for spec, records, views_by_stage in (
        (augmented, images.train, views),
        (exact, all_records, dict.fromkeys(tested, 1)),
        (exact, images.validation, dict.fromkeys(epochs.keys() - tested, 1)),
    ):
        candidates = [replace(split_model, split_stage=stage) for stage in views_by_stage]
        yield (
            spec,
            records,
            [
                FeatureWriter(candidate, spec.store(candidate), records, views_by_stage[candidate.split_stage])
                for candidate in candidates
                if candidate.is_cacheable
            ],
        )


def _fill(writers: list[FeatureWriter], records: pd.DataFrame, spec: FeatureSpec) -> None:
    fill_missing(writers, lambda pending: _compute(pending, records, spec))


def _compute(writers: list[FeatureWriter], records: pd.DataFrame, spec: FeatureSpec) -> None:
    """One pass of the frozen layers over the views that any of the writers misses."""
    views = _missing_views(writers, records, spec)
    stages, started = [writer.split_model.split_stage for writer in writers], time.perf_counter()
    count = sum(len(numbers) for _, _, numbers in views.requested)
    frozen_layers = FrozenLayers(writers[0].split_model, spec.compute, stages)
    progress = tqdm(total=count, desc="Frozen layers", unit="view", disable=None, leave=False)
    with progress, spec.compute.context():
        batch_started = time.perf_counter()
        for crops, keys in trim_between(_rebatched(view_batches(views))):
            features = frozen_layers(crops)
            seconds_each = (time.perf_counter() - batch_started) / len(keys)
            for writer in writers:
                with writer.disabling_on_error():
                    writer.write_features(keys, features[writer.split_model.split_stage], seconds_each)
            progress.update(len(keys))
            batch_started = time.perf_counter()
            if all(writer.disabled for writer in writers):
                return
    logger.info(
        "Cached features before %s of %d images (%d views, computed in %.1f s).",
        " and ".join(stages), len(views), count, time.perf_counter() - started,
    )  # fmt: skip


def _missing_views(writers: list[FeatureWriter], records: pd.DataFrame, spec: FeatureSpec) -> ImageViews:
    missing = set[str]().union(*(writer.missing for writer in writers))
    max_views = max(writer.views for writer in writers)
    requested: dict[str, tuple[str, str, list[int]]] = {}
    for path, sha256 in zip(records["path"], records["sha256"], strict=True):
        numbers = [number for number in range(max_views) if view_key(sha256, number) in missing]
        if numbers:
            requested[sha256] = (path, sha256, numbers)
    return ImageViews(ImageReader(writers[0].split_model.dataset.root, spec.transform), list(requested.values()))


def _rebatched(batches: Iterator[tuple[Tensor, list[str]]]) -> Iterator[tuple[Tensor, list[str]]]:
    """The same views and keys in batches of ``FEATURE_BATCH_SIZE``, the last one shorter."""
    crops, keys = torch.empty(0), list[str]()
    for more_crops, more_keys in batches:
        crops, keys = torch.cat([crops, more_crops]) if len(keys) else more_crops, keys + more_keys
        while len(keys) >= FEATURE_BATCH_SIZE:
            yield crops[:FEATURE_BATCH_SIZE], keys[:FEATURE_BATCH_SIZE]
            crops, keys = crops[FEATURE_BATCH_SIZE:], keys[FEATURE_BATCH_SIZE:]
    if keys:
        yield crops, keys
