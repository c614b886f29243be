"""A pool of processes that inspect images; one may hang or die without affecting the others.

Plain subprocesses instead of a ``multiprocessing`` pool: forking a process with threads may deadlock, spawning imports
the whole command line again in each process, and neither reports which file killed a process.
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

from graft.config.parameters import LimitsConfig
from graft.data.inspection import EMPTY_STATS, ImageStats
from graft.errors import GraftError

BATCH = 64
STARTUP_TIMEOUT_S = 60.0
PROGRAM = "graft.data.inspection"
IMPORT_ROOT = Path(__file__).parents[2]

InspectionTask = tuple[str, str]  # a path, and the SHA-256 of its previous content, or ""


def inspect_all(folder: Path, tasks: Sequence[InspectionTask], limits: LimitsConfig) -> Iterator[ImageStats | None]:
    """The stats of each file, in the order of the tasks, on all cores; None if the content has not changed."""
    batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
    with InspectionPool(folder, limits, min(cores(), len(batches))) as pool:
        for stats in pool.map(batches):
            yield from stats


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class InspectionPool:
    """``count`` inspecting processes, each served by a thread."""

    def __init__(self, folder: Path, limits: LimitsConfig, count: int) -> None:
        self._workers = [_Worker(folder, limits) for _ in range(count)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(max(1, count))

    def map(self, batches: Sequence[Sequence[InspectionTask]]) -> Iterator[list[ImageStats | None]]:
        """The stats of each batch, in order."""
        return self._threads.map(self._inspect, batches)

    def _inspect(self, batch: Sequence[InspectionTask]) -> list[ImageStats | None]:
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
            worker.cancel()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process of ``graft.data.inspection``, restarted after a file has killed or hung it."""

    def __init__(self, folder: Path, limits: LimitsConfig) -> None:
        self._command = [
            sys.executable, "-P", "-m", PROGRAM,
            str(folder), str(limits.max_file_bytes), str(limits.max_pixels),
        ]  # fmt: skip
        self._max_seconds = limits.max_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._cancelled = False

    def inspect(self, batch: Sequence[InspectionTask]) -> list[ImageStats | None]:
        """The stats of each file; if it takes too long or kills the process, that is its ``error``.

        The process flushes several results at a time, so when it ends, the results that were not received are
        requested again file by file: that shows which file is responsible.
        """
        results: list[ImageStats | None] = []
        chunk_size = len(batch)
        while len(results) < len(batch):
            chunk = batch[len(results) :][:chunk_size]
            if self._process is None:
                self._start()
            try:
                self._send(chunk)
                for _ in chunk:
                    results.append(json.loads(self._read_line(self._max_seconds)))
            except (TimeoutError, EOFError, BrokenPipeError) as error:
                reason = self._end(error)
                if len(chunk) == 1:
                    results.append(EMPTY_STATS | {"error": reason})
                chunk_size = 1
        return results

    def cancel(self) -> None:
        """Kill the process and let none be started again; may be called from any thread."""
        self._cancelled = True
        if (process := self._process) is not None:
            process.kill()

    def stop(self) -> None:
        """Kill the process and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        if self._cancelled:
            raise GraftError("reading the images was cancelled.")
        paths = [str(IMPORT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        self._buffer = b""
        try:
            self._read_line(STARTUP_TIMEOUT_S)
        except (TimeoutError, EOFError) as error:
            self.stop()
            raise GraftError(
                f"no process that reads images could be started; run `python -m {PROGRAM} . 1 1` to see why."
            ) from error

    def _send(self, tasks: Sequence[InspectionTask]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(tasks).encode() + b"\n")
        self._process.stdin.flush()

    def _read_line(self, timeout_s: float) -> bytes:
        """The next line of output; raises ``TimeoutError``, or ``EOFError`` if the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        poller = select.poll()
        poller.register(output, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poller.poll(timeout_s * 1000):
                raise TimeoutError
            received = os.read(output, 1 << 16)
            if not received:
                raise EOFError
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _end(self, error: Exception) -> str:
        """End the process if it still runs; returns the reason."""
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self.stop()
            return f"takes longer than {self._max_seconds:g} s to decode"
        code = self._process.wait()
        self.stop()
        return f"crashes the decoder ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
