"""A typo anywhere in a config file is one sentence and exit code 2, before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workshop, make_workshop

pytestmark = pytest.mark.pipeline
GOOD: dict[str, Any] = {
    "parameters": {"data": {"root": "."}, "model": {"architecture": "mobilenet_v3_small", "weights": "none"}}
}
WRONG: dict[str, dict[str, Any]] = {
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
    "unknown key 'steps.fine_tune.retry.delays'": {
        "steps": {"fine_tune": {"retry": {"max_retries": 3, "delays": 1}}}
    },
    "enable_cache is 'maybe'": {"enable_cache": "maybe"},
    "settings.experiment_tracker: nested is 'perhaps'": {
        "settings": {"experiment_tracker": {"nested": "perhaps"}}
    },
    "steps.fine_tune.parameters would bypass": {"steps": {"fine_tune": {"parameters": {"seed": 1}}}},
    "steps is [1]": {"steps": [1]},
    "steps.fine_tune is 3": {"steps": {"fine_tune": 3}},
    "`parameters` is empty": {"parameters": None},
    "unknown key 'trainin'": {"parameters": {"data": {"root": "."}, "trainin": {}}},
    "unfrozen_stages thaws 50 stages; mobilenet_v3_small has 13": {
        "parameters": GOOD["parameters"]
        | {"training": {"strategy": "last_stages", "fine_tune": {"unfrozen_stages": 50}}}
    },
    "did you mean 'resnet18'": {"parameters": {"data": {"root": "."}, "model": {"architecture": "resnet81"}}},
}
CHECK = """
import json, sys
from graft.errors import ConfigError
from graft.runtime.strict import check_config
from pipelines.training import training_pipeline
for content in json.load(open("cases.json")):
    try:
        check_config(content, training_pipeline, "x.yaml")
        print("accepted")
    except ConfigError as error:
        print(error)
"""


FINE: list[dict[str, Any]] = [
    {},
    {"enable_cache": False, "tags": ["a"], "run_name": "x-{date}_{time}"},
    {"steps": {"fold_4": {"enable_cache": False, "retry": {"max_retries": 1}}}},
    {"settings": {"experiment_tracker": {"experiment_name": "mine"}, "docker": {"requirements": ["x"]}}},
    {"parameters": GOOD["parameters"] | {"cross_validation": {"folds": 8}}, "steps": {"fold_7": {}}},
]


def test_every_kind_of_typo_is_named_and_what_is_right_is_accepted(workshop: Workshop) -> None:
    cases = [GOOD | case for case in [*FINE, *WRONG.values()]]
    (workshop.root / "cases.json").write_text(json.dumps(cases))
    messages = workshop.python(CHECK).splitlines()[-len(cases) :]
    assert messages[: len(FINE)] == ["accepted"] * len(FINE)
    for words, message in zip(WRONG, messages[len(FINE) :], strict=True):
        assert words in message
        assert message.startswith("x.yaml: ")


def test_a_typo_ends_with_exit_code_2_and_no_traceback(workshop: Workshop) -> None:
    (workshop.root / "typo.yaml").write_text("parameters:\n  data:\n    rot: .\n")
    command = ("zenml", "pipeline", "run", "pipelines.training.training_pipeline", "-c", "typo.yaml")
    ended = workshop.run(*command, check=False)
    assert ended.code == 2
    assert "Error: typo.yaml: data.root is missing" in ended.output
    assert "Traceback" not in ended.output
    assert not ended.ran


def test_a_broken_override_ends_with_exit_code_2(workshop: Workshop) -> None:
    ended = workshop.run("graft", "run", "configs/demo.yaml", "--set", "data.root=nowhere", check=False)
    assert ended.code == 2
    assert "Error: configs/demo.yaml: data.root is 'nowhere', which does not exist" in ended.output
    assert "Traceback" not in ended.output


def test_unfit_images_end_with_exit_code_1_and_no_traceback(workshop: Workshop, shapes: Path) -> None:
    for path in sorted((shapes / "red").iterdir())[:9]:
        path.unlink()
    ended = workshop.run("graft", "run", "configs/demo.yaml", "--set", f"data.root={shapes}", check=False)
    assert ended.code == 1
    assert "Each class must have at least 10 images, but 1 of 2 fails (red)" in ended.output
    assert "Traceback" not in ended.output
    assert "fine_tune" not in ended.ran


def test_two_first_set_ups_at_once_both_succeed_and_send_nothing_home(tmp_path: Path) -> None:
    workshop = make_workshop(tmp_path, set_up=False)
    command = [str(Path(sys.executable).parent / "graft"), "setup"]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, env=workshop.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    output = workshop.python("""
from zenml.client import Client
from mlflow.telemetry.utils import is_telemetry_disabled
from graft.runtime.stack import connect_mlflow
from graft.runtime.ui import command
print(Client().active_stack_model.name, len(connect_mlflow().search_experiments()))
print(is_telemetry_disabled())
print(*command("sqlite:///x", 5000))
""")
    stack, without_telemetry, ui = output.splitlines()[-3:]
    assert stack == "graft 1"
    assert without_telemetry == "True"
    assert yaml.safe_load((tmp_path / "home" / "config.yaml").read_text())["analytics_opt_in"] is False
    assert "--host 127.0.0.1" in ui
