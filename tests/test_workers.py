"""A file that hangs or kills the decoder costs itself, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from graft.config import LimitsConfig
from graft.data import workers
from graft.data.workers import inspect_all
from graft.errors import GraftError

LIMITS = LimitsConfig(max_seconds=1.0)
# Answers as graft.data.inspection does, but for some names.
STRANGE = """
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
def strange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "strange.py").write_text(STRANGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(workers, "PROGRAM", "strange")


@pytest.mark.usefixtures("strange")
def test_each_bad_file_costs_itself_and_the_order_stays(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(50)]
    names[3], names[4], names[20], names[49] = "die1", "die2", "hang", "exit"
    answers = list(inspect_all(tmp_path, tasks(*names), LIMITS))
    errors = {name: facts["error"] for name, facts in zip(names, answers, strict=True) if facts and facts["error"]}
    assert errors == {
        "die1": "ends the decoder (SIGSEGV)",
        "die2": "ends the decoder (SIGSEGV)",
        "hang": "takes longer than 1 s to decode",
        "exit": "ends the decoder (exit code 3)",
    }
    paths = [facts and facts.get("path") for facts in answers]
    assert [path for path in paths if path] == [name for name in names if name not in errors]


def test_a_file_with_too_many_bytes_or_pixels_is_not_decoded(tmp_path: Path) -> None:
    Image.effect_noise((300, 200), 50).save(tmp_path / "x.png")
    for limits, error in (
        (LimitsConfig(max_file_bytes=1000), "bytes, more than the limit of 1000"),
        (LimitsConfig(max_pixels=59_999), "has 300 x 200 pixels, more than the limit of 59999"),
    ):
        (facts,) = inspect_all(tmp_path, tasks("x.png"), limits)
        assert facts is not None
        assert str(facts["error"]).endswith(error)


def test_no_process_at_all_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "PROGRAM", "there_is_no_such_module")
    with pytest.raises(GraftError, match="no process that reads images could be started"):
        list(inspect_all(tmp_path, tasks("x.png"), LIMITS))


@pytest.mark.usefixtures("strange")
@pytest.mark.parametrize("_", range(10))
def test_being_stopped_ends_every_process_at_once(tmp_path: Path, _: int) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers.Inspectors(tmp_path, LIMITS, 2) as inspectors:  # noqa: PT012
        next(iter(inspectors.map([tasks("a"), tasks("b", "hang"), tasks("c", "hang"), tasks("d")])))
        processes = [worker._process for worker in inspectors._workers if worker._process]
        raise KeyboardInterrupt
    assert time.monotonic() - start < 30
    assert all(process.poll() is not None for process in processes)


@pytest.mark.usefixtures("strange")
def test_no_process_is_left_behind(tmp_path: Path) -> None:
    with workers.Inspectors(tmp_path, LIMITS, 2) as inspectors:
        next(iter(inspectors.map([tasks("a"), tasks("b")])))
        processes = [worker._process for worker in inspectors._workers if worker._process]
    assert processes
    assert all(process.poll() is not None for process in processes)
