"""Processes that inspect images, each of which may hang or die without harm to the others.

They are plain programs, not a ``multiprocessing`` pool: a fork of a process with threads may deadlock, a spawn
imports the whole command line again in each process, and neither can say which file a process died of.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from graft.config import LimitsConfig
from graft.data.inspection import NOTHING, Facts
from graft.errors import GraftError

BATCH = 64
START_S = 60.0
PROGRAM = "graft.data.inspection"
PACKAGES = Path(__file__).parents[2]

Task = tuple[str, str]  # a path, and the SHA-256 of what the file held before, or ""


def inspect_all(folder: Path, tasks: Sequence[Task], limits: LimitsConfig) -> Iterator[Facts | None]:
    """The facts of each file in the order of the tasks, on all cores; None for one that has not changed."""
    batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
    with Inspectors(folder, limits, min(cores(), len(batches))) as inspectors:
        for facts in inspectors.map(batches):
            yield from facts


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Inspectors:
    """Some inspecting processes, and a thread for each that talks to it."""

    def __init__(self, folder: Path, limits: LimitsConfig, count: int) -> None:
        self._workers = [_Worker(folder, limits) for _ in range(count)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(max(1, count))

    def map(self, batches: Sequence[Sequence[Task]]) -> Iterator[list[Facts | None]]:
        """The facts of each batch, in order."""
        return self._threads.map(self._inspect, batches)

    def _inspect(self, batch: Sequence[Task]) -> list[Facts | None]:
        worker = self._idle.get()
        try:
            return worker.inspect(batch)
        finally:
            self._idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers if error else ():
            worker.abandon()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process of ``graft.data.inspection``, started anew whenever a file has cost it its life."""

    def __init__(self, folder: Path, limits: LimitsConfig) -> None:
        self._command = [
            sys.executable, "-P", "-m", PROGRAM,
            str(folder), str(limits.max_file_bytes), str(limits.max_pixels),
        ]  # fmt: skip
        self._max_seconds = limits.max_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._abandoned = False

    def inspect(self, batch: Sequence[Task]) -> list[Facts | None]:
        """The facts of each file; one that takes too long or kills the process has that as its ``error``.

        The process gives several answers at a time. Where it ends before, what it had not given is asked again,
        one file at a time, so that the file to blame is known.
        """
        answers: list[Facts | None] = []
        at_a_time = len(batch)
        while len(answers) < len(batch):
            asked = batch[len(answers) :][:at_a_time]
            if self._process is None:
                self._start()
            try:
                self._send(asked)
                for _ in asked:
                    answers.append(json.loads(self._line(self._max_seconds)))
            except (TimeoutError, EOFError, BrokenPipeError) as error:
                reason = self._end(error)
                if len(asked) == 1:
                    answers.append(NOTHING | {"error": reason})
                at_a_time = 1
        return answers

    def abandon(self) -> None:
        """Let the thread that talks to the process find it ended, and start no other; for any thread to call."""
        self._abandoned = True
        if (process := self._process) is not None:
            process.kill()

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        if self._abandoned:
            raise GraftError("reading the images was stopped.")
        paths = [str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        self._unread = b""
        try:
            self._line(START_S)
        except (TimeoutError, EOFError) as error:
            self.stop()
            raise GraftError(
                f"no process that reads images could be started; `python -m {PROGRAM} . 1 1` says why."
            ) from error

    def _send(self, tasks: Sequence[Task]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(tasks).encode() + b"\n")
        self._process.stdin.flush()

    def _line(self, seconds: float) -> bytes:
        """The next line of output; raises ``TimeoutError``, or ``EOFError`` where the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        waiting = select.poll()
        waiting.register(output, select.POLLIN)
        while b"\n" not in self._unread:
            if not waiting.poll(seconds * 1000):
                raise TimeoutError
            more = os.read(output, 1 << 16)
            if not more:
                raise EOFError
            self._unread += more
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _end(self, error: Exception) -> str:
        """Make sure that the process has ended; returns why it had to."""
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self.stop()
            return f"takes longer than {self._max_seconds:g} s to decode"
        code = self._process.wait()
        self.stop()
        return f"ends the decoder ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
