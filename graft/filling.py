"""What frozen layers give of each image: read from the store, and computed where it is missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from graft.activations import ActivationStore, Rows
from graft.backbones import stage_of, stages
from graft.datasets import Images, ImageSource, Views, view_batches, view_key
from graft.devices import Compute
from graft.features import stage_inputs, stage_module
from graft.freezing import fingerprint
from graft.guards import require_normalised
from graft.training_config import LoopConfig
from graft.transforms import for_evaluation, for_training

logger = logging.getLogger(__name__)
AT_ONCE = 32  # always, the last batch padded: how an image is rounded must not depend on which others are missing
SEGMENT_BYTES = 32 * 2**20
LOST_AT_MOST_S = 60  # of computing, by a kill
TRIED = 2  # batches, after which keeping has to be worth while
EVALUATION = "evaluation"


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

    def key_parts(self) -> list[str]:
        """All that decides what reaches the stage, beside the image and how it is computed."""
        before = stages(self.model)[: stages(self.model).index(self.stage)]
        weights = fingerprint(
            (name, value) for name, value in self.model.state_dict().items() if stage_of(name) in before
        )
        modules = [repr(stage_module(self.model, name)) for name in before if name != "embedding"]
        return [type(self.model).__qualname__, self.stage, repr(self.source.preprocessing), weights, *modules]


def training_views(cut: Cut, rows: pd.DataFrame, epochs: int) -> StoredViews | None:
    """Augmented views of training images, as many as the config says or epochs use; None where none are kept."""
    return _stored(cut, rows, _augmented(cut), count_views(cut.loop, epochs))


def evaluation_views(cut: Cut, rows: pd.DataFrame) -> StoredViews | None:
    """Images as the exported model sees them, computed in float32; None where none are kept."""
    return _stored(cut, rows, _exact(cut), 1)


def compute_ahead(cut: Cut, images: Images, epochs: dict[str, int], judged: set[str]) -> None:
    """Compute in one pass what reaches several stages, each trained for so many epochs.

    That is, of training images as augmented, of validation images as the exported model sees them, and so of all
    images, which folds test, for the stages before which a ``judged`` model is cut.
    """
    for kind, rows, lacks in _ahead(cut, images, epochs, judged):
        _complete(lacks, rows, kind)


def missing_ahead(cut: Cut, images: Images, epochs: dict[str, int], judged: set[str]) -> dict[str, int]:
    """How many views the same would compute for each stage; nothing is."""
    counts = dict.fromkeys(epochs, 0)
    for _, _, lacks in _ahead(cut, images, epochs, judged):
        for lack in lacks:
            lack.look()
            counts[lack.cut.stage] += len(lack.missing)
    return counts


def _ahead(
    cut: Cut, images: Images, epochs: dict[str, int], judged: set[str]
) -> Iterator[tuple[_Kind, pd.DataFrame, list[_Lack]]]:
    every = pd.concat([images.train, images.validation])
    counts = {stage: count_views(cut.loop, count) for stage, count in epochs.items()}
    for kind, rows, wanted in (
        (_augmented(cut), images.train, counts),
        (_exact(cut), every, dict.fromkeys(judged, 1)),
        (_exact(cut), images.validation, dict.fromkeys(epochs.keys() - judged, 1)),
    ):
        cuts = [each for stage in wanted if (each := replace(cut, stage=stage)).can_be_kept]
        yield kind, rows, [_Lack(each, kind.store(each), rows, wanted[each.stage]) for each in cuts]


def count_views(loop: LoopConfig, epochs: int) -> int:
    """How many views of each image are made for so many epochs."""
    if loop.augmentation.strength == "none":
        return 1
    return min(loop.cache.views, epochs) if loop.sampling == "shuffled" else loop.cache.views


@dataclass(frozen=True)
class _Kind:
    """How views are made of an image, and where what follows is computed."""

    name: str
    transform: Callable[[Tensor], Tensor]
    compute: Compute

    def store(self, cut: Cut) -> ActivationStore:
        """Where what reaches a stage of such views is kept."""
        config = cut.loop.cache
        key = [*cut.key_parts(), self.name, repr(self.compute)]
        return ActivationStore(*key, precision=config.precision, max_bytes=int(config.max_gb * 1e9))


def _augmented(cut: Cut) -> _Kind:
    how, compute = cut.loop.augmentation, Compute.of(cut.loop.compute)
    transform = for_training(how.strength, how.horizontal_flip, cut.source.preprocessing)
    name = EVALUATION if how.strength == "none" else f"{how.strength} flip={how.horizontal_flip}"
    return _Kind(name, transform, compute)


def _exact(cut: Cut) -> _Kind:
    transform = partial(for_evaluation, preprocessing=cut.source.preprocessing)
    return _Kind(EVALUATION, transform, replace(Compute.of(cut.loop.compute), dtype=torch.float32))


def _stored(cut: Cut, rows: pd.DataFrame, kind: _Kind, count: int) -> StoredViews | None:
    if not cut.can_be_kept:
        return None
    lack = _Lack(cut, kind.store(cut), rows, count)
    _complete([lack], rows, kind)
    return None if lack.given_up else StoredViews(lack.store, list(rows["sha256"]), count)


class _Lack:
    """What is missing of a store, and what has been computed of it but not yet written."""

    def __init__(self, cut: Cut, store: ActivationStore, rows: pd.DataFrame, count: int) -> None:
        self.cut, self.store, self.count = cut, store, count
        self.keys = [view_key(sha256, number) for sha256 in rows["sha256"] for number in range(count)]
        self.missing: set[str] = set()
        self.given_up = False
        self._names: list[str] = []
        self._rows: list[Rows] = []
        self._batches, self._written = 0, time.monotonic()

    def look(self) -> bool:
        """Whether anything is missing."""
        self.missing = set(self.store.missing(self.keys))
        return bool(self.missing)

    def take(self, names: list[str], given: Tensor, seconds: float) -> None:
        """Keep what is missing of a batch, which took so many seconds an image to compute."""
        wanted = [row for row, name in enumerate(names) if name in self.missing]
        if self.given_up or not wanted:
            return
        if not given.isfinite().all():
            self.give_up("values are not finite")
            return
        rows = self.store.encode(given[wanted])
        if self._batches == 0:
            self.store.require_room(rows.values[0].nbytes * len(self.missing))
        self._names += [names[row] for row in wanted]
        self._rows.append(rows)
        self._batches += 1
        if self._batches == TRIED:
            count, begun = len(self._names), time.perf_counter()
            self.store.read(self.write())
            keeping = (time.perf_counter() - begun) / count
            if keeping > seconds:
                self.give_up(f"that takes {keeping * 1000:.1f} ms an image, and computing {seconds * 1000:.1f} ms")
        elif sum(each.values.nbytes for each in self._rows) >= SEGMENT_BYTES or self._is_long_ago():
            self.write()

    def write(self) -> list[str]:
        """Write what was taken, as a segment; returns its keys."""
        names, rows = self._names, self._rows
        self._names, self._rows, self._written = [], [], time.monotonic()
        if names:
            self.store.add(names, Rows.joined(rows))
        return names

    @contextmanager
    def or_give_up(self) -> Iterator[None]:
        """Give up where what runs inside finds no room."""
        try:
            yield
        except OSError as error:
            self.give_up(error)

    def give_up(self, reason: object) -> None:
        """Go on without, and say so."""
        self.given_up, self._names, self._rows = True, [], []
        self.store.take_back()
        logger.warning("What reaches %s is computed anew each time, not kept: %s.", self.cut.stage, reason)

    def _is_long_ago(self) -> bool:
        return time.monotonic() - self._written > LOST_AT_MOST_S


def _complete(lacks: list[_Lack], rows: pd.DataFrame, kind: _Kind) -> None:
    """Compute and keep what is missing anywhere; a store that cannot be written is given up."""
    try:
        _complete_locked([lack for lack in lacks if lack.look()], rows, kind)
    except OSError as error:
        for lack in lacks:
            lack.give_up(error)


def _complete_locked(lacks: list[_Lack], rows: pd.DataFrame, kind: _Kind) -> None:
    with ExitStack() as locks:
        for lack in sorted(
            lacks, key=lambda lack: lack.store.folder
        ):  # one order, or two could wait for each other
            locks.enter_context(lack.store.filling())
        lacks = [lack for lack in lacks if lack.look()]  # another process may have been at it
        if not lacks:
            return
        missing = set[str]().union(*(lack.missing for lack in lacks))
        most = max(lack.count for lack in lacks)
        wanted: dict[str, tuple[str, str, list[int]]] = {}
        for path, sha256 in zip(rows["path"], rows["sha256"], strict=True):
            numbers = [number for number in range(most) if view_key(sha256, number) in missing]
            wanted[sha256] = (path, sha256, numbers)
        cut = lacks[0].cut
        views = Views(cut.source.root, [each for each in wanted.values() if each[2]], kind.transform)
        _compute(lacks, views, kind.compute, len(missing))


def _compute(lacks: list[_Lack], views: Views, compute: Compute, count: int) -> None:
    cut, stages = lacks[0].cut, [lack.cut.stage for lack in lacks]
    model, shape, started = compute.place_model(cut.model), cut.source.preprocessing, time.perf_counter()
    with tqdm(total=count, desc="Frozen layers", unit="view", disable=None, leave=False) as bar:
        begun = time.perf_counter()
        for crops, names in _of_size(view_batches(views)):
            padded = torch.cat([crops, crops[:1].expand(AT_ONCE - len(crops), -1, -1, -1)])
            images = compute.place_images(padded, shape)
            require_normalised(images, shape)
            with compute.autocast():
                given = stage_inputs(model, images, stages)
            kept = {stage: value[: len(names)].float().cpu() for stage, value in given.items()}
            seconds = (time.perf_counter() - begun) / len(names)
            for lack in lacks:
                with lack.or_give_up():
                    lack.take(names, kept[lack.cut.stage], seconds)
            bar.update(len(names))
            begun = time.perf_counter()
            if all(lack.given_up for lack in lacks):
                return
    for lack in lacks:
        with lack.or_give_up():
            lack.write()
    logger.info(
        "What reaches %s of %d images is kept (%d views, computed in %.1f s).",
        " and ".join(stages), len(views), count, time.perf_counter() - started,
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
