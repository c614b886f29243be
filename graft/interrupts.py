"""Ctrl-C and SIGTERM: a command stops with one line, and with the exit code that shells expect."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the exit code is 130 or 143."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("Stopped; run the same command again to continue.")
        self.exit_code = 128 + signal_number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise ``Stopped`` on Ctrl-C or SIGTERM in the ``with`` block, and log nothing from then on.

    Libraries take the interruption for a failure: they would log it at length, and may replace it by an error of their
    own, so that whatever leaves the block after the signal is ``Stopped``. Without effect outside the main thread, to
    which Python delivers signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    disabled_level = logging.root.manager.disable

    def stop(signal_number: int, _: FrameType | None) -> None:
        received.append(signal_number)
        logging.disable(logging.CRITICAL)
        raise Stopped(signal_number)

    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except BaseException as error:
        if received and not isinstance(error, Stopped):
            raise Stopped(received[0]) from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        logging.disable(disabled_level)
