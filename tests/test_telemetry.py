"""No library reports to its maker: commands leave no identifier behind, and only connect to this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
# Python imports ``sitecustomize`` when it starts, in child processes as well.
GUARD = """
import os, sys
def record(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if host not in ("127.0.0.1", "::1", "localhost", "", None):
        with open(os.environ["GUARD_LOG"], "a") as file:
            file.write(f"{host}\\n")
sys.addaudithook(record)
"""
# Variables that switch reporting off, on purpose or because a library takes the process for a test of its own.
SILENCING = re.compile(r"CI|GITHUB_\w+|PYTEST_\w+|\w*(TRACK|TELEMETRY|ANALYTICS)\w*")


class Guarded:
    """Runs commands with an empty home folder, and records which hosts they look up or connect to."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.home.mkdir()
        (root / "guard").mkdir()
        (root / "guard" / "sitecustomize.py").write_text(GUARD)
        for name in ("graft", "pipelines", "steps", "materializers"):  # .zen is created beside them
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))

    def run(self, *command: str) -> str:
        """What the command prints."""
        environment = {name: value for name, value in os.environ.items() if not SILENCING.fullmatch(name)}
        for name in ("ZENML_CONFIG_PATH", "GRAFT_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            environment.pop(name, None)
        environment |= {
            "HOME": str(self.home), "GUARD_LOG": str(self.root / "hosts"),
            "PYTHONPATH": f"{self.root / 'guard'}{os.pathsep}{self.root}",
        }  # fmt: skip
        process = subprocess.run(
            [Path(sys.executable).parent / command[0], *command[1:]],
            cwd=self.root, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return process.stdout

    @property
    def hosts(self) -> list[str]:
        log = self.root / "hosts"
        return log.read_text().split() if log.exists() else []

    @property
    def identifiers(self) -> list[str]:
        """What ONNX Runtime would store in the home folder: a device id, and events to be sent."""
        return [str(path.relative_to(self.home)) for path in self.home.rglob("Microsoft/**/*")]


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


def write_model(path: Path) -> None:
    """An ONNX file whose class is the strongest of the channels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes, "strongest_channel",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"classes": json.dumps(["red", "green", "blue"])})
    onnx.save(model, path)


@pytest.mark.parametrize(
    "first_import", ["graft", "graft.integrations.logging_setup", "graft.inference.classifier", "graft.cli"]
)
def test_no_import_order_lets_onnxruntime_store_an_identifier(guarded: Guarded, first_import: str) -> None:
    guarded.run("python", "-c", f"import {first_import}, onnxruntime")
    assert guarded.identifiers == []
    assert guarded.hosts == []


def test_without_the_variable_onnxruntime_stores_an_identifier(guarded: Guarded) -> None:
    guarded.run("python", "-c", "import onnxruntime")
    if sys.platform == "linux":
        assert guarded.identifiers != []


def test_guard_records_hosts_of_child_processes(guarded: Guarded) -> None:
    look_up = "import socket\ntry: socket.getaddrinfo('collector.invalid', 443)\nexcept OSError: pass"
    guarded.run("python", "-c", f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {look_up!r}])")
    assert guarded.hosts == ["collector.invalid"]


def test_predict_and_client_of_the_readme_report_nothing(guarded: Guarded) -> None:
    write_model(guarded.root / "model.onnx")
    Image.fromarray(np.full((4, 6, 3), (10, 10, 12), np.uint8)).save(guarded.root / "photo.png")
    assert guarded.run("graft", "predict", "model.onnx", "photo.png").startswith("photo.png\tblue 78.7%")
    client = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0].replace("photo.jpg", "photo.png")
    assert guarded.run("python", "-c", client).startswith("blue 0.78")
    assert guarded.identifiers == []
    assert guarded.hosts == []


@pytest.mark.pipeline
def test_set_up_stack_and_summary_report_nothing(guarded: Guarded) -> None:
    guarded.run("python", "-c", "from graft.cli import main\nassert [main(['setup']), main(['summary'])] == [0, 1]")
    assert guarded.identifiers == []
    assert guarded.hosts == []
