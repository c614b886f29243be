"""What frozen layers give of each image: read from the store, and computed where it is missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from graft.activations import SEGMENT_BYTES, ActivationStore
from graft.backbones import stage_of, stages
from graft.datasets import ImageSource, Views, view_batches, view_key
from graft.devices import Compute
from graft.features import stage_inputs, stage_module
from graft.freezing import fingerprint
from graft.guards import require_normalised
from graft.training_config import LoopConfig
from graft.transforms import for_evaluation, for_training

logger = logging.getLogger(__name__)
AT_ONCE = 32  # always, the last batch padded: how an image is rounded must not depend on which others are missing
EVALUATION = "evaluation"


class NotKeptError(Exception):
    """There is no use in keeping these activations; the message says why."""


@dataclass(frozen=True)
class StoredViews:
    """Views of images, by row and number of the view."""

    store: ActivationStore
    hashes: list[str]
    count: int

    def read(self, views: list[tuple[int, int]]) -> Tensor:
        """What is stored of these ``[len(views), ...]``; numbers go round."""
        return self.store.read([view_key(self.hashes[row], number % self.count) for row, number in views])


@dataclass(frozen=True)
class Cut:
    """A network, the stage before which it is cut, how it is trained, and where its images lie."""

    model: nn.Module
    stage: str
    loop: LoopConfig
    source: ImageSource

    @property
    def can_be_kept(self) -> bool:
        """Whether frozen layers lie before the stage that always give the same."""
        loop = self.loop
        return (
            loop.cache.max_gb > 0 and self.stage not in (stages(self.model)[0], "embedding")
            and loop.batch_norm != "adapt" and loop.augmentation.cutmix_alpha == 0 and not loop.compute.compile
        )  # fmt: skip

    def names(self) -> list[str]:
        """All that decides what reaches the stage, beside the image and how it is computed."""
        before = stages(self.model)[: stages(self.model).index(self.stage)]
        weights = fingerprint(
            (name, value) for name, value in self.model.state_dict().items() if stage_of(name) in before
        )
        modules = [repr(stage_module(self.model, name)) for name in before if name != "embedding"]
        return [type(self.model).__qualname__, self.stage, repr(self.source.preprocessing), weights, *modules]


def training_views(cut: Cut, rows: pd.DataFrame, epochs: int) -> StoredViews | None:
    """Augmented views of training images, as many as the config says or epochs use; None where none are kept."""
    how, compute = cut.loop.augmentation, Compute.of(cut.loop.compute)
    transform = for_training(how.strength, how.horizontal_flip, cut.source.preprocessing)
    if how.strength == "none":
        return _stored(cut, rows, _Recipe(EVALUATION, transform, 1, compute))
    count = min(cut.loop.cache.views, epochs)
    return _stored(cut, rows, _Recipe(f"{how.strength} flip={how.horizontal_flip}", transform, count, compute))


def evaluation_views(cut: Cut, rows: pd.DataFrame) -> StoredViews | None:
    """Images as the exported model sees them, computed in float32; None where none are kept."""
    exact = replace(Compute.of(cut.loop.compute), dtype=torch.float32)
    transform = partial(for_evaluation, preprocessing=cut.source.preprocessing)
    return _stored(cut, rows, _Recipe(EVALUATION, transform, 1, exact))


@dataclass(frozen=True)
class _Recipe:
    """How views are made of an image, how many, and where what follows is computed."""

    name: str
    transform: Callable[[Tensor], Tensor]
    count: int
    compute: Compute


def _stored(cut: Cut, rows: pd.DataFrame, recipe: _Recipe) -> StoredViews | None:
    if not cut.can_be_kept:
        return None
    config = cut.loop.cache
    key = [*cut.names(), recipe.name, repr(recipe.compute)]
    store = ActivationStore(*key, precision=config.precision, max_bytes=int(config.max_gb * 1e9))
    hashes = list(rows["sha256"])
    keys = [view_key(sha256, number) for sha256 in hashes for number in range(recipe.count)]
    try:
        if store.missing(keys):
            with store.filling():
                missing = set(store.missing(keys))
                paths = dict(zip(hashes, rows["path"], strict=True))
                wanted = [
                    (path, sha256, numbers)
                    for sha256, path in paths.items()
                    if (numbers := [n for n in range(recipe.count) if view_key(sha256, n) in missing])
                ]
                if wanted:
                    views = Views(cut.source.root, wanted, recipe.transform)
                    _fill(store, len(missing), views, _Front(cut, recipe.compute))
    except (NotKeptError, OSError) as error:
        logger.warning("What reaches %s is computed anew each time, not kept: %s.", cut.stage, error)
        return None
    return StoredViews(store, hashes, recipe.count)


@dataclass(frozen=True)
class _Front:
    """What lies before a cut, on a device."""

    cut: Cut
    compute: Compute

    def __call__(self, crops: Tensor) -> Tensor:
        """What reaches the stage of up to ``AT_ONCE`` crops uint8, in float32 on the CPU."""
        cut, shape = self.cut, self.cut.source.preprocessing
        padded = torch.cat([crops, crops[:1].expand(AT_ONCE - len(crops), -1, -1, -1)])
        images = self.compute.place_images(padded, shape)
        require_normalised(images, shape)
        with self.compute.autocast():
            given = stage_inputs(self.compute.place_model(cut.model), images, [cut.stage])[cut.stage]
        return given[: len(crops)].float().cpu()


def _fill(store: ActivationStore, count: int, views: Views, front: _Front) -> None:
    """Compute the views and keep them, in segments; raises ``NotKeptError`` where that does not pay."""
    started = time.perf_counter()
    keys: list[str] = []
    values: list[Tensor] = []
    done, nbytes, trials = 0, 0, 0
    with tqdm(total=count, desc=f"Before {front.cut.stage}", unit="view", disable=None, leave=False) as bar:
        for crops, names in _of_size(view_batches(views)):
            begun = time.perf_counter()
            given = front(crops)
            seconds = time.perf_counter() - begun
            if done == 0:
                _require_fit(given[0].nbytes * count, store.max_bytes)
            keys += names
            values.append(given)
            nbytes += given.nbytes
            done += len(names)
            bar.update(len(names))
            trials += 1
            if trials == 2 or sum(each.nbytes for each in values) >= SEGMENT_BYTES:
                begun = time.perf_counter()
                store.add(keys, torch.cat(values))
                store.read(keys)
                if trials == 2:
                    _require_gain(seconds / len(names), (time.perf_counter() - begun) / len(keys))
                keys, values = [], []
    if keys:
        store.add(keys, torch.cat(values))
    logger.info(
        "What reaches %s of %d images is kept: %d views, %.0f MB, computed in %.1f s.",
        front.cut.stage, len(views), done, nbytes / 1e6, time.perf_counter() - started,
    )  # fmt: skip


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


def _require_fit(needed: int, allowed: int) -> None:
    if needed > allowed:
        raise NotKeptError(
            f"{needed / 1e9:.1f} GB are needed, and training.cache.max_gb allows {allowed / 1e9:.1f}; raise it, "
            f"or lower training.cache.views"
        )


def _require_gain(computing: float, keeping: float) -> None:
    if keeping > computing:
        raise NotKeptError(
            f"writing and reading takes {keeping * 1000:.1f} ms an image, and computing {computing * 1000:.1f} ms"
        )
