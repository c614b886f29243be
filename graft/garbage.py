"""Python's garbage collector in a process of the console command: it looks less often, and not at the end.

torch, ZenML and MLflow make more than a million objects. By itself the collector goes through all of them a dozen
times in a run, and takes them apart one by one when the process ends: eight seconds of a run of fifty.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 10_000  # after which it looks among them; by itself, after 700


def collect_seldom() -> None:
    """For the rest of this process."""
    gc.set_threshold(NEW_OBJECTS)


@contextmanager
def importing() -> Iterator[None]:
    """Import inside: modules are no garbage, now or later. It does nothing in another kind of process."""
    if gc.get_threshold()[0] != NEW_OBJECTS:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end_at_once(codes: list[int]) -> None:
    """Once all that is registered with ``atexit`` from now on has run, end this process with the code in the list.

    Where the list is still empty then, an error that nobody foresaw ends it, as it always would.
    """
    atexit.register(_end, codes)


def _end(codes: list[int]) -> None:
    if not codes:
        gc.unfreeze()  # or libraries would complain that their functions are never taken apart
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads what is left to say: Python itself ends so then
        codes[0] = 120
    os._exit(codes[0])
