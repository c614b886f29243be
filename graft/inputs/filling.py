"""Fills stores: computes in one pass what is missing of activations, or of pixels."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from graft.cache.activations import ActivationStore
from graft.cache.lack import Lack, make_good
from graft.compute.memory import with_trims
from graft.inputs.cut import AT_ONCE, Cut, FrozenLayers, Kind
from graft.inputs.datasets import ImageSource, Views, read_batches, view_batches, view_key
from graft.inputs.pixels import PixelStore, Reader
from graft.networks.transforms import ImageTransform, evaluation_transform
from graft.training_config import CacheConfig

logger = logging.getLogger(__name__)


class StageLack(Lack):
    """What is missing of what reaches a stage, in so many views of each image."""

    store: ActivationStore

    def __init__(self, cut: Cut, store: ActivationStore, rows: pd.DataFrame, count: int) -> None:
        keys = [view_key(sha256, number) for sha256 in rows["sha256"] for number in range(count)]
        super().__init__(f"What reaches {cut.stage} is", store, keys)
        self.cut, self.count = cut, count

    def take_views(self, names: list[str], given: Tensor, seconds: float) -> None:
        """Keep what is missing of a batch, which took so many seconds an image to compute."""
        wanted = self.wanted(names)
        if not given[wanted].isfinite().all():
            self.give_up("values are not finite")
        elif wanted:
            self.take([names[number] for number in wanted], self.store.encode(given[wanted]), seconds)


def fill(lacks: list[StageLack], rows: pd.DataFrame, kind: Kind) -> None:
    """Compute and keep what is missing anywhere; a store that cannot be written is given up."""
    make_good(lacks, lambda lacking: _compute(lacking, rows, kind))


def kept_pixels(source: ImageSource, rows: pd.DataFrame, transform: ImageTransform, cache: CacheConfig) -> Reader:
    """A reader of these images, which are decoded once and kept; what is not to be kept comes from its file."""
    from_files = Reader(source.root, transform)
    if cache.max_gb == 0:
        return from_files
    store = PixelStore(transform, cache)
    lack = Lack("Pixels are", store, list(rows["sha256"]), in_parts=True)
    make_good([lack], lambda _: _decode(lack, store, rows, from_files))
    return from_files if lack.given_up else replace(from_files, store=store, holds_all=not lack.full)


def missing_pixels(rows: pd.DataFrame, transform: ImageTransform, cache: CacheConfig) -> int:
    """How many images ``kept_pixels`` would decode; none is."""
    return len(PixelStore(transform, cache).missing(list(rows["sha256"]))) if cache.max_gb else 0


def kept_crops(source: ImageSource, rows: pd.DataFrame, cache: CacheConfig) -> Reader:
    """A reader of these images as the exported model sees them, which are decoded once and kept."""
    return kept_pixels(source, rows, evaluation_transform(source.preprocessing), cache)


def _decode(lack: Lack, store: PixelStore, rows: pd.DataFrame, reader: Reader) -> None:
    paths = dict(zip(rows["sha256"], rows["path"], strict=True))
    wanted = [(path, sha256) for sha256, path in paths.items() if sha256 in lack.missing]
    started = time.perf_counter()
    for batch in tqdm(read_batches(reader, wanted), desc="Decoding", unit="batch", disable=None, leave=False):
        names, images, seconds = zip(*batch, strict=True)
        with lack.or_give_up():
            lack.take(list(names), store.encode(list(images)), sum(seconds) / len(batch))
        if lack.given_up or lack.full:
            return
    logger.info(
        "The pixels of %d images are kept (decoded in %.1f s).", len(wanted), time.perf_counter() - started
    )


def _compute(lacks: list[StageLack], rows: pd.DataFrame, kind: Kind) -> None:
    views = _views(lacks, rows, kind)
    stages, started = [lack.cut.stage for lack in lacks], time.perf_counter()
    count = sum(len(numbers) for _, _, numbers in views.wanted)
    frozen_layers = FrozenLayers(lacks[0].cut, kind.compute, stages)
    bar = tqdm(total=count, desc="Frozen layers", unit="view", disable=None, leave=False)
    with bar, kind.compute.running():
        begun = time.perf_counter()
        for crops, names in with_trims(_of_size(view_batches(views))):
            given = frozen_layers(crops)
            seconds = (time.perf_counter() - begun) / len(names)
            for lack in lacks:
                with lack.or_give_up():
                    lack.take_views(names, given[lack.cut.stage], seconds)
            bar.update(len(names))
            begun = time.perf_counter()
            if all(lack.given_up for lack in lacks):
                return
    logger.info(
        "What reaches %s of %d images is kept (%d views, computed in %.1f s).",
        " and ".join(stages), len(views), count, time.perf_counter() - started,
    )  # fmt: skip


def _views(lacks: list[StageLack], rows: pd.DataFrame, kind: Kind) -> Views:
    """The views that any of them lacks."""
    missing = set[str]().union(*(lack.missing for lack in lacks))
    most = max(lack.count for lack in lacks)
    wanted: dict[str, tuple[str, str, list[int]]] = {}
    for path, sha256 in zip(rows["path"], rows["sha256"], strict=True):
        numbers = [number for number in range(most) if view_key(sha256, number) in missing]
        if numbers:
            wanted[sha256] = (path, sha256, numbers)
    return Views(Reader(lacks[0].cut.source.root, kind.transform), list(wanted.values()))


def _of_size(batches: Iterator[tuple[Tensor, list[str]]]) -> Iterator[tuple[Tensor, list[str]]]:
    """The same in batches of ``AT_ONCE``, the last one shorter."""
    crops, names = torch.empty(0), list[str]()
    for more, keys in batches:
        crops, names = torch.cat([crops, more]) if len(names) else more, names + keys
        while len(names) >= AT_ONCE:
            yield crops[:AT_ONCE], names[:AT_ONCE]
            crops, names = crops[AT_ONCE:], names[AT_ONCE:]
    if names:
        yield crops, names
