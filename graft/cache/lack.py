"""What is missing of a store: taken as it is computed, as long as keeping it is worth while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from graft.cache.row_store import NoRoomError, RowStore
from graft.cache.rows import Gathered, Rows

logger = logging.getLogger(__name__)
SEGMENT_BYTES = 32 * 2**20
LOST_AT_MOST_S = 60  # of computing, by a kill
TRIED: int | None = 2  # batches, after which keeping has to be worth while
READ_AT_LEAST = 4  # times, in epochs and folds: so many share the cost of writing


class Lack:
    """What is missing of a store, and what has been computed of it but not yet written; ``what`` names it.

    Where not all of it fits, nothing is kept, or ``in_parts`` as much as does.
    """

    def __init__(self, what: str, store: RowStore, keys: list[str], in_parts: bool = False) -> None:
        self.what, self.store, self.keys, self.in_parts = what, store, keys, in_parts
        self.missing: set[str] = set()
        self.given_up = self.full = False
        self._gathered = Gathered()
        self._batches, self._written, self._added = 0, time.monotonic(), 0

    def look(self) -> bool:
        """Whether anything is missing."""
        self.missing = set(self.store.missing(self.keys))
        return bool(self.missing)

    def wanted(self, names: list[str]) -> list[int]:
        """The numbers of those that are to be taken."""
        if self.given_up or self.full:
            return []
        return [number for number, name in enumerate(names) if name in self.missing]

    def take(self, names: list[str], rows: Rows, seconds: float) -> None:
        """Keep rows, each of which took so many seconds to compute."""
        if self._batches == 0:
            needed = len(rows) if self.in_parts else len(self.missing)
            self.store.require_room(rows.values.nbytes // len(rows) * needed)
        self._gathered.add(names, rows)
        self._batches += 1
        if self._batches == TRIED:
            keeping = self._seconds_to_keep()
            if keeping > seconds:
                reason = f"that takes {keeping * 1000:.1f} ms an image, and computing {seconds * 1000:.1f} ms"
                self.give_up(reason, logging.INFO)
        elif self._gathered.nbytes >= SEGMENT_BYTES or self._is_long_ago():
            self.write()

    def write(self) -> list[str]:
        """Write what was taken, as a segment; returns its keys."""
        gathered, self._gathered, self._written = self._gathered, Gathered(), time.monotonic()
        if gathered.keys:
            self.store.add(gathered.keys, gathered.rows())
            self._added += len(gathered.keys)
        return gathered.keys

    @contextmanager
    def or_give_up(self) -> Iterator[None]:
        """Give up where what runs inside finds no room, or keep what is kept where a part is of use."""
        try:
            yield
        except OSError as error:
            kept = len(set(self.keys)) - len(self.missing) + self._added
            if self.in_parts and kept and isinstance(error, NoRoomError):
                self.full, self._gathered = True, Gathered()
                logger.info("%s kept of %d images, and of the others computed anew: %s.", self.what, kept, error)
            else:
                self.give_up(error)

    def give_up(self, reason: object, level: int = logging.WARNING) -> None:
        """Go on without, and say so."""
        self.given_up, self._gathered = True, Gathered()
        self.store.take_back()
        logger.log(level, "%s computed anew each time, not kept: %s.", self.what, reason)

    def _seconds_to_keep(self) -> float:
        """Of what was taken so far, for each reading of a row."""
        begun = time.perf_counter()
        names = self.write()
        written = time.perf_counter()
        for name in names:
            self.store.find(name)[0].clone()
        read = time.perf_counter()
        return ((written - begun) / READ_AT_LEAST + read - written) / len(names)

    def _is_long_ago(self) -> bool:
        return time.monotonic() - self._written > LOST_AT_MOST_S


L = TypeVar("L", bound=Lack)


def make_good(lacks: Iterable[L], compute: Callable[[list[L]], None]) -> None:
    """Let one process at a time compute and take what is missing; a store that cannot be written is given up."""
    lacks = list(lacks)
    try:
        with ExitStack() as locks:
            lacking = [lack for lack in lacks if lack.look()]
            # In one order, or two processes could wait for each other.
            for lack in sorted(lacking, key=lambda lack: lack.store.folder):
                locks.enter_context(lack.store.filling())
            if lacking := [lack for lack in lacking if lack.look()]:  # another process may have been at it
                compute(lacking)
                for lack in lacking:
                    with lack.or_give_up():
                        lack.write()
    except OSError as error:
        for lack in lacks:
            lack.give_up(error)
