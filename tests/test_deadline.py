"""A call that never returns, and one whose data come too slowly."""

from __future__ import annotations

import threading
import time

import pytest

from graft.data.deadline import call_within


def test_result_and_error_of_a_call_are_its_own() -> None:
    assert call_within(5, lambda: 3) == 3
    assert call_within(5, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        call_within(5, lambda: 1 // 0)


def test_call_that_never_returns_is_a_timeout() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        call_within(0.2, threading.Event().wait)


def test_call_goes_on_while_data_arrive() -> None:
    done = threading.Event()
    started = time.monotonic()

    def received() -> int:
        seconds = time.monotonic() - started
        if seconds > 0.9:
            done.set()
        return int(100_000 * seconds)

    assert call_within(0.3, done.wait, received) is True


def test_data_that_trickle_in_are_a_timeout() -> None:
    bytes_received = iter(range(1000))
    with pytest.raises(TimeoutError):
        call_within(0.2, threading.Event().wait, lambda: next(bytes_received))
