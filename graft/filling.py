"""Fills stores of activations: computes what is missing in one pass, as long as keeping it is worth while."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from graft.activations import ActivationStore, Rows
from graft.cut import AT_ONCE, Cut, FrozenLayers, Kind
from graft.datasets import Views, view_batches, view_key

logger = logging.getLogger(__name__)
SEGMENT_BYTES = 32 * 2**20
LOST_AT_MOST_S = 60  # of computing, by a kill
TRIED: int | None = 2  # batches, after which keeping has to be worth while


class Lack:
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


def fill(lacks: list[Lack], rows: pd.DataFrame, kind: Kind) -> None:
    """Compute and keep what is missing anywhere; a store that cannot be written is given up."""
    try:
        _fill([lack for lack in lacks if lack.look()], rows, kind)
    except OSError as error:
        for lack in lacks:
            lack.give_up(error)


def _fill(lacks: list[Lack], rows: pd.DataFrame, kind: Kind) -> None:
    with ExitStack() as locks:
        # In one order, or two processes could wait for each other.
        for lack in sorted(lacks, key=lambda lack: lack.store.folder):
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
        views = Views(lacks[0].cut.source.root, [each for each in wanted.values() if each[2]], kind.transform)
        _compute(lacks, views, kind, len(missing))


def _compute(lacks: list[Lack], views: Views, kind: Kind, count: int) -> None:
    stages, started = [lack.cut.stage for lack in lacks], time.perf_counter()
    frozen_layers = FrozenLayers(lacks[0].cut, kind.compute, stages)
    bar = tqdm(total=count, desc="Frozen layers", unit="view", disable=None, leave=False)
    with bar, kind.compute.running():
        begun = time.perf_counter()
        for crops, names in _of_size(view_batches(views)):
            given = frozen_layers(crops)
            seconds = (time.perf_counter() - begun) / len(names)
            for lack in lacks:
                with lack.or_give_up():
                    lack.take(names, given[lack.cut.stage], seconds)
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
