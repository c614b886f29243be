"""An error anywhere in a config file is one sentence with exit code 2, before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workspace, make_workspace

pytestmark = pytest.mark.pipeline
VALID: dict[str, Any] = {
    "parameters": {"data": {"root": "."}, "model": {"architecture": "mobilenet_v3_small", "weights": "none"}}
}
ERRORS: dict[str, dict[str, Any]] = {
    "unknown key 'parameter'": {"parameter": {}},
    "unknown key 'stepss'": {"stepss": {}},
    "unknown key 'steps.fold_7'": {"steps": {"fold_7": {"enable_cache": False}}},
    "unknown key 'steps.fine_tune.enable_cash'": {"steps": {"fine_tune": {"enable_cash": False}}},
    "unknown key 'steps.fine_tune.settings.experiment_trackers'": {
        "steps": {"fine_tune": {"settings": {"experiment_trackers": {}}}}
    },
    "unknown key 'settings.experiment_tracker.nestd'": {"settings": {"experiment_tracker": {"nestd": True}}},
    "unknown key 'settings.docker.requirement'": {"settings": {"docker": {"requirement": []}}},
    "unknown key 'model.nam'": {"model": {"nam": "x"}},
    "unknown key 'retry.max_retry'": {"retry": {"max_retry": 3}},
    "unknown key 'steps.fine_tune.retry.delays'": {"steps": {"fine_tune": {"retry": {"max_retries": 3, "delays": 1}}}},
    "enable_cache is 'maybe'": {"enable_cache": "maybe"},
    "settings.experiment_tracker: nested is 'perhaps'": {"settings": {"experiment_tracker": {"nested": "perhaps"}}},
    "steps.fine_tune.parameters would bypass": {"steps": {"fine_tune": {"parameters": {"seed": 1}}}},
    "steps is [1]": {"steps": [1]},
    "steps.fine_tune is 3": {"steps": {"fine_tune": 3}},
    "`parameters` is empty": {"parameters": None},
    "unknown key 'trainin'": {"parameters": {"data": {"root": "."}, "trainin": {}}},
    "unfrozen_stages unfreezes 50 stages, but mobilenet_v3_small has 13": {
        "parameters": VALID["parameters"]
        | {"training": {"strategy": "last_stages", "fine_tune": {"unfrozen_stages": 50}}}
    },
    "did you mean 'resnet18'": {"parameters": {"data": {"root": "."}, "model": {"architecture": "resnet81"}}},
}
CHECK = """
import json, sys
from graft.errors import ConfigError
from graft.integrations.strict_pipeline import check_config
from pipelines.training import training_pipeline
for content in json.load(open("cases.json")):
    try:
        check_config(content, training_pipeline, "x.yaml")
        print("accepted")
    except ConfigError as error:
        print(error)
"""


VALID_OPTIONS: list[dict[str, Any]] = [
    {},
    {"enable_cache": False, "tags": ["a"], "run_name": "x-{date}_{time}"},
    {"steps": {"fold_4": {"enable_cache": False, "retry": {"max_retries": 1}}}},
    {"settings": {"experiment_tracker": {"experiment_name": "mine"}, "docker": {"requirements": ["x"]}}},
    {"parameters": VALID["parameters"] | {"cross_validation": {"folds": 8}}, "steps": {"fold_7": {}}},
]


def test_check_config_names_every_kind_of_error_and_accepts_valid_options(workspace: Workspace) -> None:
    cases = [VALID | case for case in [*VALID_OPTIONS, *ERRORS.values()]]
    (workspace.root / "cases.json").write_text(json.dumps(cases))
    messages = workspace.python(CHECK).splitlines()[-len(cases) :]
    assert messages[: len(VALID_OPTIONS)] == ["accepted"] * len(VALID_OPTIONS)
    for expected, message in zip(ERRORS, messages[len(VALID_OPTIONS) :], strict=True):
        assert expected in message
        assert message.startswith("x.yaml: ")


def test_zenml_run_with_typo_exits_with_code_2_and_no_traceback(workspace: Workspace) -> None:
    (workspace.root / "typo.yaml").write_text("parameters:\n  data:\n    rot: .\n")
    command = ("zenml", "pipeline", "run", "pipelines.training.training_pipeline", "-c", "typo.yaml")
    result = workspace.run(*command, check=False)
    assert result.code == 2
    assert "Error: typo.yaml: data.root is missing" in result.output
    assert "Traceback" not in result.output
    assert not result.ran


def test_graft_run_with_invalid_override_exits_with_code_2(workspace: Workspace) -> None:
    result = workspace.run("graft", "run", "configs/demo.yaml", "--set", "data.root=nowhere", check=False)
    assert result.code == 2
    assert "Error: configs/demo.yaml: data.root is 'nowhere', which does not exist" in result.output
    assert "Traceback" not in result.output


def test_graft_run_with_too_few_images_exits_with_code_1_and_no_traceback(workspace: Workspace, shapes: Path) -> None:
    for path in sorted((shapes / "red").iterdir())[:9]:
        path.unlink()
    result = workspace.run("graft", "run", "configs/demo.yaml", "--set", f"data.root={shapes}", check=False)
    assert result.code == 1
    assert "Each class must have at least 10 images, but 1 of 2 fails (red)" in result.output
    assert "Traceback" not in result.output
    assert "fine_tune" not in result.ran


def test_concurrent_setups_both_succeed_and_disable_telemetry(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, set_up=False)
    command = [str(Path(sys.executable).parent / "graft"), "setup"]
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, env=workspace.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    output = workspace.python("""
from zenml.client import Client
from mlflow.telemetry.utils import is_telemetry_disabled
from graft.integrations.stack import connect_mlflow
from graft.integrations.mlflow_ui import server_command
print(Client().active_stack_model.name, len(connect_mlflow().search_experiments()))
print(is_telemetry_disabled())
print(*server_command("sqlite:///x", 5000))
""")
    stack, telemetry_disabled, ui = output.splitlines()[-3:]
    assert stack == "graft 1"
    assert telemetry_disabled == "True"
    assert yaml.safe_load((tmp_path / "home" / "config.yaml").read_text())["analytics_opt_in"] is False
    assert "--host 127.0.0.1" in ui
