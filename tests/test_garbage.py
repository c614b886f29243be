"""The console command ends as it should, though without taking apart all that it made."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from graft.garbage import collect_seldom, importing

PROGRAM = """
import atexit
from graft import cli

class Kept:
    def __del__(self):
        print("taken apart")

def main():
    global kept
    kept = [Kept()]
    kept.append(kept)
    atexit.register(print, "farewell")
    {end}

cli.main = main
cli.console()
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("return 0", 0, "farewell\n"),
        ("return 2", 2, "farewell\n"),
        ("raise SystemExit(3)", 3, "farewell\ntaken apart\n"),
        ("raise ValueError('unforeseen')", 1, "farewell\ntaken apart\n"),
    ],
)
def test_it_ends_at_once_with_its_exit_code_after_what_waits_for_the_end(end: str, code: int, said: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(end=end)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, said)
    assert ("ValueError: unforeseen" in done.stderr) == (code == 1)


def test_it_ends_with_an_error_where_nobody_reads_what_it_says() -> None:
    program = [sys.executable, "-c", PROGRAM.format(end="return 0")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 120


def test_what_is_imported_is_never_looked_at_again() -> None:
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    with importing():
        assert gc.isenabled()  # where it was not asked to
    assert gc.get_freeze_count() == before
    collect_seldom()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
