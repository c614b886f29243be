"""Ctrl-C and SIGTERM end a command with one line and the exit code that shells expect."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from graft.cli import main, pipelines
from graft.interrupts import Stopped, stoppable

ONE_LINE = "Stopped; run the same command again to continue.\n"


def interrupt(sent: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), sent)


def replace_by_another_error(sent: signal.Signals) -> None:
    try:
        interrupt(sent)
    except BaseException as error:
        raise RuntimeError("a library's own error") from error


def forget_it_and_fail_later(sent: signal.Signals) -> None:
    with suppress(KeyboardInterrupt):
        interrupt(sent)
    logging.getLogger("library").critical("failed with a long traceback")
    raise ValueError("unrelated")


@pytest.mark.parametrize("library", [interrupt, replace_by_another_error, forget_it_and_fail_later])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_ends_with_one_line_whatever_libraries_make_of_the_signal(
    library: Callable[[signal.Signals], None],
    sent: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pipelines, "_summary", lambda _: library(sent))
    assert main(["summary"]) == code
    assert capsys.readouterr().err == ONE_LINE
    assert caplog.records == []


def test_handlers_and_logging_are_restored(caplog: pytest.LogCaptureFixture) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped), stoppable():
        interrupt()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    logging.getLogger("library").error("audible again")
    assert caplog.messages == ["audible again"]


def test_errors_without_a_signal_are_unchanged() -> None:
    with pytest.raises(ValueError, match="unrelated"), stoppable():
        raise ValueError("unrelated")


def test_stoppable_does_nothing_outside_the_main_thread() -> None:
    entered = []

    def body() -> None:
        with stoppable():
            entered.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert entered == [True]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_code_of_a_process_that_started_with_sigint_ignored(sent: signal.Signals, code: int) -> None:
    script = """
        import signal, sys
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a command in the background
        from graft.cli import console, pipelines
        def wait(_):
            print("ready", flush=True)
            signal.pause()
        pipelines._summary = wait
        sys.argv = ["graft", "summary"]
        console()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, ONE_LINE)
