"""A place that cannot be written is one sentence, which names the place and the variable that moves it."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from graft.cache.files import write_atomically
from graft.cli import main, pipelines
from graft.places import cache_root, describe_write_error, moving_variables, storage_error

VARIABLES = ("GRAFT_CACHE", "ZENML_CONFIG_PATH", "MPLCONFIGDIR", "TORCH_HOME", "TMPDIR")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each variable names a folder of its own, ``tmp_path/<variable>``."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path


@pytest.mark.parametrize("variable", VARIABLES)
def test_variable_of_a_path_is_that_of_its_folder(places: Path, variable: str) -> None:
    assert moving_variables(places / variable / "tmp123" / "b") == variable


def test_path_above_several_folders_names_all_their_variables(places: Path) -> None:
    assert moving_variables(places).split(" and ") == list(VARIABLES)
    assert moving_variables("/elsewhere") == ""


def test_path_that_the_user_chose_among_temporary_files_is_not_moved_by_tmpdir(places: Path) -> None:
    assert moving_variables(places / "TMPDIR" / "report.html") == ""


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", "")
    assert cache_root().name == "graft"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room there or set GRAFT_CACHE to another folder"),
        (errno.EDQUOT, "make room there or set GRAFT_CACHE to another folder"),
        (errno.EACCES, "allow writing there or set GRAFT_CACHE to another folder"),
        (errno.EROFS, "allow writing there or set GRAFT_CACHE to another folder"),
        (errno.ENOTDIR, "allow writing there or set GRAFT_CACHE to another folder"),
    ],
)
def test_sentence_of_an_error_names_place_reason_and_what_to_do(places: Path, number: int, advice: str) -> None:
    path = places / "GRAFT_CACHE" / "tensors"
    error = RuntimeError("a library's own error")
    error.__cause__ = OSError(number, os.strerror(number), str(path))
    assert str(storage_error(error)) == (
        f"{path}: cannot be written ({os.strerror(number)}); {advice}, then run the same command again."
    )


def test_full_database_names_zenml_folder(places: Path) -> None:
    message = str(storage_error(sqlite3.OperationalError("database or disk is full")))
    assert message.startswith(
        f"{places / 'ZENML_CONFIG_PATH'}: cannot be written (database or disk is full); make room"
    )


@pytest.mark.parametrize("error", [ValueError("no"), FileNotFoundError(2, "No such file", "x.csv"), OSError("no")])
def test_other_errors_are_not_about_places(error: Exception) -> None:
    assert storage_error(error) is None


def test_warning_names_place_and_variable(places: Path) -> None:
    path = places / "GRAFT_CACHE" / "x"
    error = OSError(errno.ENOSPC, "No space left on device")
    assert describe_write_error(error, path) == (
        f"{path} cannot be written (No space left on device; GRAFT_CACHE moves it)"
    )


def test_interrupted_write_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(OSError, match=r"No space left on device: '.*/x'"):
        write_atomically(tmp_path / "x", b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"before")]


def test_error_that_a_command_does_not_expect_is_one_sentence(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (places / "MPLCONFIGDIR").write_text("a file instead of a folder")
    monkeypatch.setattr(pipelines, "_summary", lambda _: (places / "MPLCONFIGDIR" / "x").write_text("x"))
    assert main(["summary"]) == 1
    assert capsys.readouterr().err == (
        f"Error: {places / 'MPLCONFIGDIR' / 'x'}: cannot be written (Not a directory); allow writing there or set "
        f"MPLCONFIGDIR to another folder, then run the same command again.\n"
    )


@pytest.mark.parametrize("home", ["a file instead of a folder", "/proc/nowhere"])
def test_home_that_cannot_be_written_is_one_sentence(home: str, tmp_path: Path) -> None:
    folder = Path(home)
    if not folder.is_absolute():
        folder = tmp_path / "home"
        folder.write_text(home)
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    process = subprocess.run(
        [sys.executable, "-m", "graft.cli", "setup"], cwd=tmp_path, env=environment | {"HOME": str(folder)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith(f"Error: {folder}")
    assert "ZENML_CONFIG_PATH" in process.stderr


@pytest.mark.parametrize("device", ["/dev/full"])
def test_report_on_a_full_disk_names_the_path(
    device: str, tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos.yaml").write_text(f"parameters:\n  data:\n    root: {shapes}\n")
    assert main(["check", str(tmp_path / "photos.yaml"), "--page", device]) == 1
    assert capsys.readouterr().err.endswith(
        "Error: /dev/full: cannot be written (No space left on device); make room there or choose another path, then "
        "run the same command again.\n"
    )
