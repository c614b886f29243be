"""MLflow runs of killed processes are closed, those of living ones are not, and one registry is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Workspace, make_workspace

from graft.errors import StorageError
from graft.integrations.stack import check_folder_name

pytestmark = pytest.mark.pipeline
# The state of each run: its status, and whether it is tagged as the continuation of the first one.
TAGGED_RUNS = """
import json, mlflow
from graft.config.parameters import GateConfig
from graft.integrations import run_process
from graft.integrations.run_process import tagged_runs
from graft.integrations.stack import connect_mlflow

client = connect_mlflow()
mlflow.set_experiment("experiment")
config, other_config = GateConfig(), GateConfig(min_images=7)

def record(parameters=config, **tags):
    with mlflow.start_run(tags=tags, nested=True) as run:
        return run.info.run_id

def state(run_id):
    run = client.get_run(run_id)
    return [run.info.status, run.data.tags.get("graft.continues") == first]

first = ""
with tagged_runs(config):
    first = mlflow.start_run().info.run_id
    with tagged_runs(config):
        alive = state(first)  # as another process sees it
    mlflow.end_run()
    client.update_run(first, "RUNNING")
    lock = run_process._lock_folder(client) / client.get_run(first).data.tags["graft.process"]
lock.touch()  # as if the process had been killed inside
with tagged_runs(other_config):
    closed, different = state(first), state(record())
with tagged_runs(config):
    second = record(**{"graft.status": "complete"})
with tagged_runs(config):
    third = record(**{"graft.status": "complete"})
try:
    with tagged_runs(config):
        fourth = mlflow.start_run().info.run_id
        raise ValueError
except ValueError:
    pass
try:
    with tagged_runs(config):
        fifth = mlflow.start_run().info.run_id
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
locks = [path.name for path in lock.parent.iterdir()]
print(json.dumps([alive, closed, different, *map(state, (second, third, fourth, fifth)), locks]))
"""
REGISTRY = """
import json, mlflow
from graft.integrations.stack import connect_mlflow
client = connect_mlflow()
client.create_registered_model("photos")
print(json.dumps([client.tracking_uri, client._registry_uri, mlflow.get_registry_uri(), mlflow.get_tracking_uri()]))
"""
ARTIFACT = """
import mlflow
from zenml.client import Client
from graft.integrations.stack import connect_mlflow
connect_mlflow()
tracker = Client().active_stack.experiment_tracker
tracker._set_active_experiment("experiment")
with mlflow.start_run():
    mlflow.log_text("content", "artifact.txt")
"""
UNREACHABLE = """
from zenml.client import Client
from zenml.enums import StackComponentType as T
client = Client()
far = {"tracking_uri": "http://127.0.0.1:9", "tracking_token": "x"}
client.create_stack_component("far", flavor="mlflow", component_type=T.EXPERIMENT_TRACKER, configuration=far)
client.create_stack("far", {T.ORCHESTRATOR: "default", T.ARTIFACT_STORE: "default", T.EXPERIMENT_TRACKER: "far"})
client.activate_stack("far")
"""


def test_runs_of_killed_processes_are_closed_and_continued(workspace: Workspace) -> None:
    *states, locks = json.loads(workspace.python(TAGGED_RUNS).splitlines()[-1])
    names = ["alive", "closed", "different", "second", "third", "failed", "interrupted"]
    assert dict(zip(names, states, strict=True)) == {
        "alive": ["RUNNING", False],
        "closed": ["KILLED", False],
        "different": ["FINISHED", False],  # another config
        "second": ["FINISHED", True],
        "third": ["FINISHED", False],  # the second one is complete
        "failed": ["FAILED", False],
        "interrupted": ["KILLED", False],  # continues the failed one
    }
    assert locks == []


@pytest.mark.parametrize("registry", ["http://127.0.0.1:9", "sqlite:///elsewhere.db"])
def test_inherited_mlflow_variables_do_not_divide_runs_and_models(
    workspace: Workspace, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code = REGISTRY.replace("photos", "photos" + registry[0])
    uris = json.loads(workspace.python(code).splitlines()[-1])
    assert len(set(uris)) == 1
    assert uris[0].startswith(f"sqlite:///{workspace.root}/home/")


def test_mlflow_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    workspace.python(UNREACHABLE)
    for command in (("rollback", "photos"), ("run", "configs/demo.yaml")):
        result = workspace.run("graft", *command, check=False)
        assert result.code == 1
        error = result.output.splitlines()[-1]
        assert error.startswith("Error: MLflow cannot be reached (MlflowException: API request to http://127.0.0.1:9/")
        assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["%41", "a?b", "a#b", "a\nb", "%C3%BC"])
def test_folder_whose_name_would_be_another_in_an_address_is_refused(name: str) -> None:
    with pytest.raises(StorageError, match="set ZENML_CONFIG_PATH to another folder"):
        check_folder_name(f"/home/{name}/zenml")


@pytest.mark.parametrize("name", ["100%", "a b", "\u00fc", "a;b", "a&b=c", "a+b", "~", "[x]", "a:b"])
def test_folder_with_another_unusual_name_is_accepted(name: str) -> None:
    check_folder_name(f"/home/{name}/zenml")


def test_artifacts_are_in_a_folder_with_an_unusual_name(tmp_path: Path) -> None:
    root = tmp_path / "100% \u00fc;&+"
    root.mkdir()
    workspace = make_workspace(root)
    workspace.python(ARTIFACT)
    assert [path.read_text() for path in (root / "home").rglob("artifact.txt")] == ["content"]


def test_setup_refuses_an_unsuitable_folder(tmp_path: Path) -> None:
    root = tmp_path / "a?b"
    root.mkdir()
    result = make_workspace(root, set_up=False).run("graft", "setup", check=False)
    assert result.code == 1
    assert result.output.splitlines()[-1].startswith(f"Error: {root}/home: cannot be ZenML's folder")
