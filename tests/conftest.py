"""Fixtures: small image folders, and a workshop in which whole pipelines run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.demo import write_digits

REPOSITORY = Path(__file__).parents[1]
REAL_DATA = os.environ.get("GRAFT_REAL_DATA")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Pipelines take longest: were they begun last, one worker would wait for the other.
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)
    if REAL_DATA:
        return
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason="GRAFT_REAL_DATA is not set"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real photographs and real ImageNet weights."""
    assert REAL_DATA
    return Path(REAL_DATA).resolve()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty handwritten digits of each class; do not change it."""
    return write_digits(tmp_path_factory.mktemp("images") / "digits", 20)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Twelve noisy images of each of two classes, told apart by colour; yours to change."""
    generator = np.random.default_rng(0)
    for label, colour in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
        folder = tmp_path / "shapes" / label
        folder.mkdir(parents=True)
        for number in range(12):
            noise = generator.integers(-40, 40, (40 + number, 48, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(
                folder / f"{number}.png"
            )
    return tmp_path / "shapes"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What an earlier scan found must not reach a test, nor a test's scan the user."""
    os.environ["GRAFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code, all that it printed, and the steps of a pipeline that it ran."""

    code: int
    output: str

    @property
    def ran(self) -> set[str]:
        return set(re.findall(r"^Step `?(\w+)`? has finished in", self.output, re.MULTILINE))

    @property
    def cached(self) -> set[str]:
        return set(re.findall(r"^Using cached version of step `?(\w+)`?\.", self.output, re.MULTILINE))


@dataclass(frozen=True)
class Workshop:
    """A copy of the repository with a ZenML home of its own, so that a test may change code and data."""

    root: Path

    def run(self, *command: str, check: bool = True) -> Finished:
        done = subprocess.run(
            [Path(sys.executable).parent / command[0], *command[1:]],
            cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        assert not check or done.returncode == 0, output
        return Finished(done.returncode, output)

    def start(self, *command: str, output: Path) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own, and go on; what it prints goes to a file."""
        with output.open("wb") as file:
            return subprocess.Popen(
                [Path(sys.executable).parent / command[0], *command[1:]], cwd=self.root, env=self.environment,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def python(self, code: str) -> str:
        """Run code against this workshop's stores; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", "import graft.runtime.quiet\n" + code],
            cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def edit(self, path: str, before: str, after: str) -> None:
        text = (self.root / path).read_text()
        assert before in text
        (self.root / path).write_text(text.replace(before, after))

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "ZENML_CONFIG_PATH": str(self.root / "home"),
            "GRAFT_CACHE": str(self.root / "cache"),
            "PYTHONPATH": str(self.root),
            "ZENML_LOGGING_COLORS_DISABLED": "true",
            "NO_COLOR": "1",
        }


def make_workshop(root: Path, set_up: bool = True) -> Workshop:
    for name in ("graft", "pipelines", "steps", "materializers", "configs"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    workshop = Workshop(root)
    if set_up:
        workshop.run("graft", "setup")
    return workshop


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One workshop for all tests of a file."""
    return make_workshop(tmp_path_factory.mktemp("workshop"))
