"""Calls that may never return, such as requests to a server that accepts a connection and stays silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

POLL_S = 0.5
MIN_BYTES_PER_S = 1024
T = TypeVar("T")


def call_within(timeout_s: float, function: Callable[[], T], received: Callable[[], int] = lambda: 0) -> T:
    """The result of a call; raises ``TimeoutError`` if it brings neither that nor 1 KB/s of data for ``timeout_s``.

    ``received`` counts the bytes so far. No thread can be ended from outside: a late call goes on in one that does not
    keep the process alive.
    """
    outcomes: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcomes.put((function(), None))
        except BaseException as error:  # raised again by the caller
            outcomes.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    started, before = time.monotonic(), received()
    while True:
        try:
            result, error = outcomes.get(timeout=min(POLL_S, timeout_s))
        except Empty:
            if time.monotonic() - started < timeout_s:
                continue
            if (now := received()) - before < MIN_BYTES_PER_S * timeout_s:
                raise TimeoutError(f"no answer within {timeout_s:g} s") from None
            started, before = time.monotonic(), now
            continue
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None only if that is the result
