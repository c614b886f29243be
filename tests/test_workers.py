"""A file that hangs or kills the decoder becomes an error, and affects no other file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from graft.config.parameters import LimitsConfig
from graft.data import workers
from graft.data.workers import inspect_all
from graft.errors import GraftError

LIMITS = LimitsConfig(max_seconds=1.0)
# Like graft.data.inspection, but hangs or dies for some file names.
FAULTY_PROGRAM = """
import json, os, signal, sys, time
print("ready", flush=True)
for line in sys.stdin:
    for path, _ in json.loads(line):
        if "hang" in path:
            time.sleep(60)
        if "die" in path:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in path:
            sys.exit(3)
        print(json.dumps({"path": path, "error": ""}), flush=True)
"""


def tasks(*names: str) -> list[tuple[str, str]]:
    return [(name, "") for name in names]


@pytest.fixture
def faulty_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "faulty_program.py").write_text(FAULTY_PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(workers, "PROGRAM", "faulty_program")


@pytest.mark.usefixtures("faulty_program")
def test_inspect_all_reports_each_crash_and_hang_and_keeps_the_order(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(50)]
    names[3], names[4], names[20], names[49] = "die1", "die2", "hang", "exit"
    results = list(inspect_all(tmp_path, tasks(*names), LIMITS))
    errors = {name: stats["error"] for name, stats in zip(names, results, strict=True) if stats and stats["error"]}
    assert errors == {
        "die1": "crashes the decoder (SIGSEGV)",
        "die2": "crashes the decoder (SIGSEGV)",
        "hang": "takes longer than 1 s to decode",
        "exit": "crashes the decoder (exit code 3)",
    }
    paths = [stats and stats.get("path") for stats in results]
    assert [path for path in paths if path] == [name for name in names if name not in errors]


def test_inspect_all_rejects_too_many_bytes_or_pixels(tmp_path: Path) -> None:
    Image.effect_noise((300, 200), 50).save(tmp_path / "x.png")
    for limits, error in (
        (LimitsConfig(max_file_bytes=1000), "bytes, more than the limit of 1000"),
        (LimitsConfig(max_pixels=59_999), "has 300 x 200 pixels, more than the limit of 59999"),
    ):
        (stats,) = inspect_all(tmp_path, tasks("x.png"), limits)
        assert stats is not None
        assert str(stats["error"]).endswith(error)


def test_inspect_all_reports_a_program_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "PROGRAM", "there_is_no_such_module")
    with pytest.raises(GraftError, match="no process that reads images could be started"):
        list(inspect_all(tmp_path, tasks("x.png"), LIMITS))


@pytest.mark.usefixtures("faulty_program")
@pytest.mark.parametrize("_", range(10))
def test_pool_ends_every_process_on_keyboard_interrupt(tmp_path: Path, _: int) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers.InspectionPool(tmp_path, LIMITS, 2) as pool:  # noqa: PT012
        next(iter(pool.map([tasks("a"), tasks("b", "hang"), tasks("c", "hang"), tasks("d")])))
        processes = [worker._process for worker in pool._workers if worker._process]
        raise KeyboardInterrupt
    assert time.monotonic() - start < 30
    assert all(process.poll() is not None for process in processes)


@pytest.mark.usefixtures("faulty_program")
def test_pool_leaves_no_process_behind(tmp_path: Path) -> None:
    with workers.InspectionPool(tmp_path, LIMITS, 2) as pool:
        next(iter(pool.map([tasks("a"), tasks("b")])))
        processes = [worker._process for worker in pool._workers if worker._process]
    assert processes
    assert all(process.poll() is not None for process in processes)
