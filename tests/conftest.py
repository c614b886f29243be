"""Fixtures: small image folders, and a workspace in which whole pipelines run."""

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

from graft.data.demo_digits import write_digits

REPOSITORY = Path(__file__).parents[1]
REAL_DATA = os.environ.get("GRAFT_REAL_DATA")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Pipelines take longest: if they started last, the other worker would be idle meanwhile.
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
    """Twelve noisy images of each of two classes, which differ in colour; a test may change them."""
    generator = np.random.default_rng(0)
    for label, colour in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
        folder = tmp_path / "shapes" / label
        folder.mkdir(parents=True)
        for number in range(12):
            noise = generator.integers(-40, 40, (40 + number, 48, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "shapes"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty cache: tests neither read nor fill the user's."""
    os.environ["GRAFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@dataclass(frozen=True)
class CommandResult:
    """A finished command: its exit code, its output, and the pipeline steps that ran or were cached."""

    code: int
    output: str

    @property
    def ran(self) -> set[str]:
        return set(re.findall(r"^Step `?(\w+)`? has finished in", self.output, re.MULTILINE))

    @property
    def cached(self) -> set[str]:
        return set(re.findall(r"^Using cached version of step `?(\w+)`?\.", self.output, re.MULTILINE))


@dataclass(frozen=True)
class Workspace:
    """A copy of the repository with its own ZenML home, so that a test may change code and data."""

    root: Path

    def run(self, *command: str, check: bool = True) -> CommandResult:
        process = subprocess.run(
            [Path(sys.executable).parent / command[0], *command[1:]],
            cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        output = re.sub(r"\x1b\[[0-9;]*m", "", process.stdout + process.stderr)
        assert not check or process.returncode == 0, output
        return CommandResult(process.returncode, output)

    def start(self, *command: str, output: Path) -> subprocess.Popen[bytes]:
        """Start a command in a new process group and return at once; ``output`` receives what it prints."""
        with output.open("wb") as file:
            return subprocess.Popen(
                [Path(sys.executable).parent / command[0], *command[1:]], cwd=self.root, env=self.environment,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def python(self, code: str) -> str:
        """Run code with this workspace's stores; returns what it printed."""
        process = subprocess.run(
            [sys.executable, "-c", "import graft.integrations.logging_setup\n" + code],
            cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return process.stdout

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


def make_workspace(root: Path, set_up: bool = True) -> Workspace:
    for name in ("graft", "pipelines", "steps", "materializers", "configs"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    workspace = Workspace(root)
    if set_up:
        workspace.run("graft", "setup")
    return workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One workspace for all tests of a file."""
    return make_workspace(tmp_path_factory.mktemp("workspace"))
