"""Entry point and argument parser."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from graft import __version__
from graft.cli import data, models, pipelines, training
from graft.errors import GraftError, printable
from graft.gc_tuning import exit_without_teardown, reduce_gc_frequency
from graft.interrupts import Stopped, stoppable
from graft.places import storage_error


def console() -> NoReturn:
    """Run the command line of this process, and exit with its exit code."""
    codes: list[int] = []
    exit_without_teardown(codes)
    reduce_gc_frequency()
    codes.append(main())
    sys.exit(codes[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 if it failed, 2 if arguments or config are invalid.

    After Ctrl-C it is 130, after SIGTERM 143.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # file names may have characters that the terminal cannot print
    options = _parser().parse_args(arguments)
    try:
        with stoppable():
            options.run(options)
            print(end="", flush=True)
    except GraftError as error:
        return _report(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except Exception as error:  # any library may be the one that cannot write
        if isinstance(error, OSError) and (isinstance(error, BrokenPipeError) or not _can_flush()):
            return _abandon_output(error)
        unwritable = storage_error(error)
        if unwritable is None:
            raise
        return _report(unwritable)
    return 0


def _report(error: GraftError) -> int:
    print("Error:", "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)
    return error.exit_code


def _can_flush() -> bool:
    """Whether standard output can be written; what failed to be written is still in its buffer."""
    try:
        print(end="", flush=True)
    except OSError:
        return False
    return True


def _abandon_output(error: OSError) -> int:
    """Write no more to standard output, since that would fail again at exit; returns the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader, such as head, wants no more
        return 141  # 128 + SIGPIPE, as of any command in a pipe
    print(f"Error: the output cannot be written ({error.strerror}).", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graft", description="From labelled photographs to a promoted ONNX classifier."
    )
    parser.add_argument("--version", action="version", version=f"graft {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (pipelines, data, training, models):
        group.add_commands(commands)
    return parser
