"""The console command exits with the right code and output, without deallocating its objects."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from graft.gc_tuning import gc_paused, reduce_gc_frequency

PROGRAM = """
import atexit
import sys
from graft import cli

class Cyclic:
    def __del__(self):
        print("deallocated")

def main():
    global objects
    objects = [Cyclic()]
    objects.append(objects)
    atexit.register(print, "atexit")
    {end}

sys.modules["graft.cli.main"].main = main
cli.console()
"""


@pytest.mark.parametrize(
    ("end", "code", "output"),
    [
        ("return 0", 0, "atexit\n"),
        ("return 2", 2, "atexit\n"),
        ("raise SystemExit(3)", 3, "atexit\ndeallocated\n"),
        ("raise ValueError('unexpected')", 1, "atexit\ndeallocated\n"),
    ],
)
def test_console_exits_with_its_code_after_atexit_handlers(end: str, code: int, output: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(end=end)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, output)
    assert ("ValueError: unexpected" in done.stderr) == (code == 1)


def test_console_exits_with_120_if_stdout_is_closed() -> None:
    program = [sys.executable, "-c", PROGRAM.format(end="return 0")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 120


def test_gc_paused_freezes_imported_modules_only_after_reduce_gc_frequency() -> None:
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    with gc_paused():
        assert gc.isenabled()  # reduce_gc_frequency was not called
    assert gc.get_freeze_count() == before
    reduce_gc_frequency()
    try:
        with gc_paused():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
