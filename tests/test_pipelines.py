"""Whole pipelines on a real local stack: which steps run, which are cached, what MLflow and the registry contain.

The tests run in order and depend on each other, since each run costs seconds.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CommandResult, Workspace

from graft.data.demo_digits import write_digits

pytestmark = pytest.mark.pipeline
ZENML_RUN = ("zenml", "pipeline", "run", "pipelines.training.training_pipeline", "-c", "small.yaml")
GRAFT_RUN = ("graft", "run", "small.yaml")  # equivalent, but starts faster
NEVER_CACHED = {"ingest_images", "register_model", "report_run"}
TRAINING = {"warm_up_head", "fine_tune", "fold_0", "fold_1"}
EVALUATION = {"choose_recipe", "evaluate_holdout", "export_onnx", "validate_onnx"}
ALL_STEPS = NEVER_CACHED | {"validate_data", "split_data", "plan_training"} | TRAINING | EVALUATION
HEADLINE = {
    "data/images", "data/quarantined", "warmup/train_loss", "warmup/val_accuracy", "finetune/train_loss",
    "finetune/val_accuracy", "finetune/val_macro_f1", "finetune/lr_head", "cv/accuracy_mean", "cv/accuracy_std",
    "cv/macro_f1_mean", "cv/accuracy_head_only_mean", "cv/accuracy_corrected", "holdout/accuracy",
    "holdout/macro_f1", "holdout/ece",
    "onnx/max_abs_error", "onnx/top1_agreement", "onnx/latency_ms", "time/fine_tune_s", "time/ingest_images_s",
}  # fmt: skip
RUNS = """
import json
from graft.integrations.stack import connect_mlflow
client = connect_mlflow()
experiment = client.get_experiment_by_name("training_pipeline")
runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
print(json.dumps([
    {
        "id": run.info.run_id, "parent": run.data.tags.get("mlflow.parentRunId"), "name": run.info.run_name,
        "status": run.info.status,
        "metrics": run.data.metrics, "params": run.data.params, "tags": run.data.tags,
        "epochs": len(client.get_metric_history(run.info.run_id, "finetune/train_loss")),
        "files": [file.path for folder in ("", "figures") for file in client.list_artifacts(run.info.run_id, folder)],
        "models": [model.model_id for model in run.outputs.model_outputs],
    }
    for run in runs
]))
"""


@pytest.fixture(scope="module")
def prepared(workspace: Workspace) -> Workspace:
    """A workspace with 250 digits and a config that takes seconds."""
    write_digits(workspace.root / "digits", 25)
    content = yaml.safe_load((workspace.root / "configs" / "demo.yaml").read_text())
    parameters = content["parameters"]
    parameters["data"]["root"] = "digits"
    parameters["training"]["warm_up"]["epochs"] = 2
    parameters["training"]["strategy"] = "last_stages"
    parameters["training"]["fine_tune"] |= {"epochs": 2, "unfrozen_stages": 2}
    parameters["cross_validation"] = {"folds": 2}
    parameters["seed"] = 0
    parameters["export"] = {"parity_images": 4}
    (workspace.root / "small.yaml").write_text(yaml.safe_dump(content))
    return workspace


@pytest.fixture(scope="module")
def first(prepared: Workspace) -> CommandResult:
    """The first run of the training pipeline."""
    return prepared.run(*ZENML_RUN)


def runs(workspace: Workspace) -> list[Any]:
    return list(json.loads(workspace.python(RUNS).splitlines()[-1]))


def test_first_run_runs_every_step(prepared: Workspace, first: CommandResult) -> None:
    assert first.ran == ALL_STEPS
    assert "pickle" not in first.output.lower()
    parent, *children = runs(prepared)
    assert set(parent["metrics"]) >= HEADLINE
    assert parent["tags"]["graft.status"] == "complete"
    assert re.fullmatch(r"(float32|bfloat16) on cpu, channels (last|first), 1 threads", parent["tags"]["graft.compute"])
    assert parent["params"]["training.fine_tune.epochs"] == "2"
    assert {"figures/curves.png", "figures/folds.png", "validation.html", "stages.txt"} <= set(parent["files"])
    assert len(parent["models"]) == 1
    assert [child["name"] for child in children] == ["fold_0", "fold_1"]
    for child in children:
        assert child["parent"] == parent["id"]
        assert child["epochs"] == 2
        assert 0 < child["metrics"]["fold/accuracy"] <= 1


def test_summary_names_a_model_that_predicts(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    output = prepared.run("graft", "summary").output
    assert "Folds" in output
    model = next(line.split()[-1] for line in output.splitlines() if "Model" in line)
    predicted = prepared.run("graft", "predict", model, str(next((prepared.root / "digits" / "7").iterdir())))
    assert "%" in predicted.output


def test_second_run_is_cached_and_complete_in_mlflow(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    second = prepared.run(*GRAFT_RUN)
    assert second.ran == NEVER_CACHED
    assert second.cached == ALL_STEPS - NEVER_CACHED
    before, *_, after = runs(prepared)
    names = {name for name in before["metrics"] if not name.startswith("time/")}
    assert {name: after["metrics"][name] for name in names} == {name: before["metrics"][name] for name in names}
    assert after["epochs"] == before["epochs"]
    assert after["models"] == before["models"]
    assert "fine_tune" in after["tags"]["graft.reused_steps"]


def test_registered_model_is_loaded_by_its_alias(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    output = prepared.python("""
import mlflow, numpy as np
from zenml.client import Client
from graft.integrations.stack import connect_mlflow
client = connect_mlflow()
model = mlflow.pyfunc.load_model("models:/digits-demo@challenger")
print(np.round(sum(model.predict({"image": np.zeros((2, 20, 30, 3), np.uint8)})["probabilities"][1]), 4))
version = client.get_model_version_by_alias("digits-demo", "challenger")
zenml_version = Client().get_model_version("digits-demo", version.tags["zenml.model_version_id"])
versions = client.search_model_versions("name = 'digits-demo'")
print(version.version, zenml_version.run_metadata["mlflow_version"], len(versions))
""")
    assert output.splitlines()[-2:] == ["1.0", "1 1 1"]


def test_changed_config_value_reruns_only_dependent_steps(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    prepared.edit("small.yaml", "parity_images: 4", "parity_images: 5")
    assert prepared.run(*GRAFT_RUN).ran == NEVER_CACHED | {"validate_onnx"}


def test_added_stray_files_rerun_no_training(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    strays = [prepared.root / "digits" / ".DS_Store", prepared.root / "digits" / "3" / "page.jpg"]
    for stray in strays:
        stray.write_text("<html>" * 30)
    finished = prepared.run(*GRAFT_RUN)
    assert finished.ran == NEVER_CACHED | {"validate_data", "split_data", "export_onnx", "validate_onnx"}
    assert "3/page.jpg" in finished.output
    for stray in strays:
        stray.unlink()


def test_changed_helper_reruns_only_dependent_steps(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    prepared.edit("graft/export/onnx_model.py", "odd * (half % 2)", "(half % 2) * odd")
    assert prepared.run(*GRAFT_RUN).ran == NEVER_CACHED | {"export_onnx", "validate_onnx"}


def test_truncated_image_is_quarantined_and_reruns_every_step(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    image = prepared.root / "digits" / "3" / sorted((prepared.root / "digits" / "3").iterdir())[0].name
    image.write_bytes(image.read_bytes()[:60])
    finished = prepared.run(*GRAFT_RUN)
    assert finished.ran == ALL_STEPS
    assert f"3/{image.name}" in finished.output
    assert runs(prepared)[-3]["metrics"]["data/quarantined"] == 1


def test_killed_run_continues_after_its_last_epoch(prepared: Workspace, first: CommandResult, tmp_path: Path) -> None:
    assert first.code == 0
    prepared.edit("small.yaml", "seed: 0", "seed: 1")
    running = prepared.start(*GRAFT_RUN, output=tmp_path / "output")
    deadline = time.monotonic() + 300
    while (tmp_path / "output").read_text().count("finetune 1/2") < 2:  # in the first fold, and in the second
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = prepared.run(*GRAFT_RUN)
    assert {"fold_1", "warm_up_head", "fine_tune"} <= finished.ran <= ALL_STEPS - {"plan_training", "fold_0"}
    epochs = ("warmup 1/2", "warmup 2/2", "finetune 1/2", "finetune 2/2")
    # The one first epoch of fine-tuning is the final model's; the second fold's was finished before the kill.
    assert [finished.output.count(f"{epoch}: loss") for epoch in epochs] == [1, 1, 1, 2]
    killed, first_fold, second_fold, complete, *_ = runs(prepared)[-5:]
    assert [run["status"] for run in (killed, first_fold, second_fold)] == ["KILLED", "FINISHED", "KILLED"]
    assert (complete["status"], complete["tags"]["graft.continues"]) == ("FINISHED", killed["id"])


@pytest.mark.parametrize(
    ("command", "sent", "code"), [(GRAFT_RUN, signal.SIGINT, 130), (ZENML_RUN, signal.SIGTERM, 143)]
)
def test_interrupted_run_ends_with_one_line_and_is_killed_in_mlflow(
    prepared: Workspace, first: CommandResult, tmp_path: Path, command: tuple[str, ...], sent: signal.Signals, code: int
) -> None:
    assert first.code == 0
    prepared.edit("small.yaml", "seed: 1", f"seed: {code}")
    running = prepared.start(*command, output=tmp_path / "output")
    while "warmup 1/2" not in (tmp_path / "output").read_text():
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, sent)
    assert running.wait(60) == code
    *_, last_but_one, last = (tmp_path / "output").read_text().splitlines()
    assert last_but_one.startswith("warmup ")
    assert last == "Stopped; run the same command again to continue."
    assert [run["status"] for run in runs(prepared)[-2:]] == ["KILLED", "KILLED"]
    prepared.edit("small.yaml", f"seed: {code}", "seed: 1")


PROMOTION = ("zenml", "pipeline", "run", "pipelines.promotion.promotion_pipeline", "-c", "gate.yaml")
ALIASES = """
import json
from graft.integrations.stack import connect_mlflow
from graft.integrations.registry import promote, roll_back, version_by_alias
from zenml.client import Client
client = connect_mlflow()
def show():
    aliases = {}
    for alias in ("challenger", "champion", "previous_champion"):
        version = version_by_alias(client, "digits-demo", alias)
        aliases[alias] = version and str(version.version)
        if alias == "champion" and version:
            zenml_version = Client().get_model_version("digits-demo", version.tags["zenml.model_version_id"])
            aliases["stage"] = zenml_version.stage
    print(json.dumps(aliases))
"""


def aliases(workspace: Workspace, code: str) -> list[dict[str, str]]:
    """The aliases at each call of ``show()`` in ``code``."""
    return [json.loads(line) for line in workspace.python(ALIASES + code).splitlines() if line.startswith("{")]


def write_gate(workspace: Workspace, **gate: float) -> None:
    content = yaml.safe_load((workspace.root / "configs" / "promotion.yaml").read_text())
    content["parameters"]["data"]["root"] = "digits"
    content["parameters"]["gate"] = gate
    (workspace.root / "gate.yaml").write_text(yaml.safe_dump(content))


def test_promotion_refuses_challenger_with_every_failed_condition(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    write_gate(prepared, min_accuracy=1.0, min_images=10_000)
    refused = prepared.run(*PROMOTION, check=False)
    assert refused.code == 1
    assert "images that neither model was trained on: required at least 10000, found " in refused.output
    assert "accuracy of the challenger: required at least 1.000, found 0." in refused.output
    assert "Traceback" not in refused.output
    # The next test needs a champion: the first version is promoted without the gate.
    before, after = aliases(prepared, "show(); promote(client, 'digits-demo', '1'); show()")
    assert before["champion"] is None
    assert after["champion"] == "1"
    assert after["challenger"] == before["challenger"] != "1"


def test_promotion_moves_alias_and_rollback_restores_it(prepared: Workspace, first: CommandResult) -> None:
    assert first.code == 0
    write_gate(prepared, min_accuracy=0.3, min_images=10)
    prepared.run("graft", "promote", "gate.yaml")
    promoted, rolled_back = aliases(prepared, "show(); print(roll_back(client, 'digits-demo')); show()")
    newest = promoted["challenger"]
    assert promoted == {"challenger": newest, "champion": newest, "previous_champion": "1", "stage": "production"}
    assert rolled_back == promoted | {"champion": "1", "previous_champion": None}
    again = prepared.run("graft", "rollback", "digits-demo", check=False)
    assert again.code == 1
    assert "Error: the registry has no previous champion" in again.output
