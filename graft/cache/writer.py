"""Fills a tensor store with what it lacks, as long as reading it back is faster than computing it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from graft.cache.packed import PackedBuffer, PackedTensors
from graft.cache.tensor_store import CacheFullError, TensorStore
from graft.places import describe_write_error

logger = logging.getLogger(__name__)
SEGMENT_BYTES = 32 * 2**20
FLUSH_INTERVAL_S = 60  # at most this much computing is lost when the process is killed
BENCHMARK_BATCHES: int | None = 2  # after this many batches, caching is compared with recomputing
EXPECTED_READS = 4  # per tensor, over epochs and folds: the cost of writing is shared by them


class CacheWriter:
    """Writes missing tensors of a store in segments; ``label`` names them in log messages.

    Caching is disabled if not all of them fit. With ``allow_partial``, as many as fit are cached.
    """

    def __init__(self, label: str, store: TensorStore, keys: list[str], *, allow_partial: bool = False) -> None:
        self.label, self.store, self.keys, self.allow_partial = label, store, keys, allow_partial
        self.missing: set[str] = set()
        self.disabled = self.full = False
        self._buffer = PackedBuffer()
        self._batches, self._flushed_at, self._written = 0, time.monotonic(), 0

    def find_missing(self) -> bool:
        """Update ``missing`` from the store; returns whether anything is missing."""
        self.missing = set(self.store.missing(self.keys))
        return bool(self.missing)

    def indices_to_write(self, keys: list[str]) -> list[int]:
        """Positions of the keys whose tensors should be written."""
        if self.disabled or self.full:
            return []
        return [index for index, key in enumerate(keys) if key in self.missing]

    def write(self, keys: list[str], packed: PackedTensors, seconds_each: float) -> None:
        """Buffer tensors for the store; computing each took ``seconds_each``. Raises ``OSError`` without room."""
        if self._batches == 0:
            count = len(packed) if self.allow_partial else len(self.missing)
            self.store.check_room(packed.values.nbytes // len(packed) * count)
        self._buffer.append(keys, packed)
        self._batches += 1
        if self._batches == BENCHMARK_BATCHES:
            caching_s = self._measure_caching_s()
            if caching_s > seconds_each:
                reason = f"caching takes {caching_s * 1000:.1f} ms an image, computing {seconds_each * 1000:.1f} ms"
                self.disable(reason, logging.INFO)
        elif self._buffer.nbytes >= SEGMENT_BYTES or self._flush_is_due():
            self.flush()

    def flush(self) -> list[str]:
        """Write the buffer as a segment; returns its keys."""
        buffer, self._buffer, self._flushed_at = self._buffer, PackedBuffer(), time.monotonic()
        if buffer.keys:
            self.store.add(buffer.keys, buffer.packed())
            self._written += len(buffer.keys)
        return buffer.keys

    @contextmanager
    def disabling_on_error(self) -> Iterator[None]:
        """Disable the writer on an ``OSError`` in the ``with`` block; with ``allow_partial``, it may only be full."""
        try:
            yield
        except OSError as error:
            cached = len(set(self.keys)) - len(self.missing) + self._written
            if self.allow_partial and cached and isinstance(error, CacheFullError):
                self.full, self._buffer = True, PackedBuffer()
                logger.info("%s cached for %d images only: %s.", self.label, cached, error)
            else:
                self.disable(_reason(error, self.store))

    def disable(self, reason: object, level: int = logging.WARNING) -> None:
        """Discard what was written and continue without a cache."""
        self.disabled, self._buffer = True, PackedBuffer()
        self.store.discard_written()
        logger.log(level, "%s computed again each time, not cached: %s.", self.label, reason)

    def _measure_caching_s(self) -> float:
        """Seconds per tensor and read: reading one, and its share of writing it."""
        start = time.perf_counter()
        keys = self.flush()
        written = time.perf_counter()
        for key in keys:
            self.store.get(key)[0].clone()
        read = time.perf_counter()
        return ((written - start) / EXPECTED_READS + read - written) / len(keys)

    def _flush_is_due(self) -> bool:
        return time.monotonic() - self._flushed_at > FLUSH_INTERVAL_S


def _reason(error: OSError, store: TensorStore) -> str:
    return str(error) if isinstance(error, CacheFullError) else describe_write_error(error, store.folder)


W = TypeVar("W", bound=CacheWriter)


def fill_missing(writers: Iterable[W], compute: Callable[[list[W]], None]) -> None:
    """Call ``compute`` with the writers whose stores lack something, while holding the locks of these stores.

    One process at a time fills a store. Writers whose stores cannot be written to are disabled.
    """
    writers = list(writers)
    try:
        with ExitStack() as locks:
            pending = [writer for writer in writers if writer.find_missing()]
            # Always in the same order: otherwise two processes could wait for each other.
            for writer in sorted(pending, key=lambda writer: writer.store.folder):
                locks.enter_context(writer.store.fill_lock())
            # Another process may have filled them while this one waited.
            if pending := [writer for writer in pending if writer.find_missing()]:
                compute(pending)
                for writer in pending:
                    with writer.disabling_on_error():
                        writer.flush()
    except OSError as error:
        for writer in writers:
            writer.disable(_reason(error, writer.store))
