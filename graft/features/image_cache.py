"""Decodes images into a disk cache, for phases in which no layer is frozen."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pandas as pd
from tqdm import tqdm

from graft.cache.writer import CacheWriter, fill_missing
from graft.config.training import CacheConfig
from graft.features.image_reader import ImageReader, ImageStore
from graft.features.loaders import DatasetInfo, image_batches
from graft.models.transforms import ImageTransform, evaluation_transform

logger = logging.getLogger(__name__)


def cached_reader(
    dataset: DatasetInfo, records: pd.DataFrame, transform: ImageTransform, cache: CacheConfig
) -> ImageReader:
    """Decode the images that the cache lacks, and return a reader of the cache.

    As many images as fit are cached; the reader decodes the others from their files. Nothing is cached if decoding
    is faster than reading the cache.
    """
    from_files = ImageReader(dataset.root, transform)
    if cache.max_gb == 0:
        return from_files
    store = ImageStore(transform, cache)
    writer = CacheWriter("Decoded images are", store, list(records["sha256"]), allow_partial=True)
    fill_missing([writer], lambda _: _decode(writer, store, records, from_files))
    return from_files if writer.disabled else replace(from_files, store=store, holds_all=not writer.full)


def cached_eval_reader(dataset: DatasetInfo, records: pd.DataFrame, cache: CacheConfig) -> ImageReader:
    """``cached_reader`` for the centre crops that the exported model sees."""
    return cached_reader(dataset, records, evaluation_transform(dataset.preprocessing), cache)


def count_uncached_images(records: pd.DataFrame, transform: ImageTransform, cache: CacheConfig) -> int:
    """The number of images that ``cached_reader`` would decode; decodes none."""
    return len(ImageStore(transform, cache).missing(list(records["sha256"]))) if cache.max_gb else 0


def _decode(writer: CacheWriter, store: ImageStore, records: pd.DataFrame, reader: ImageReader) -> None:
    paths = dict(zip(records["sha256"], records["path"], strict=True))
    missing = [(path, sha256) for sha256, path in paths.items() if sha256 in writer.missing]
    started = time.perf_counter()
    for batch in tqdm(image_batches(reader, missing), desc="Decoding", unit="batch", disable=None, leave=False):
        hashes, images, seconds = zip(*batch, strict=True)
        with writer.disabling_on_error():
            writer.write(list(hashes), store.encode(list(images)), sum(seconds) / len(batch))
        if writer.disabled or writer.full:
            return
    logger.info("Cached %d decoded images (in %.1f s).", len(missing), time.perf_counter() - started)
