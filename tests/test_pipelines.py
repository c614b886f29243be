"""The pipelines whole, on a real local stack: what runs, what is cached, what MLflow and the registry hold.

The tests of this file build on each other in order: each run costs seconds.
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
from conftest import Finished, Workshop

from graft.demo import write_digits

pytestmark = pytest.mark.pipeline
BY_ZENML = ("zenml", "pipeline", "run", "pipelines.training.training_pipeline", "-c", "small.yaml")
AGAIN = ("graft", "run", "small.yaml")  # the same, and starts sooner
ALWAYS = {"ingest_images", "register_model", "report_run"}
TRAINED = {"warm_up_head", "fine_tune", "fold_0", "fold_1"}
JUDGED = {"summarize_folds", "evaluate_holdout", "export_onnx", "validate_onnx"}
EVERY = ALWAYS | {"validate_data", "split_data", "plan_training"} | TRAINED | JUDGED
HEADLINE = {
    "data/images", "data/quarantined", "warmup/train_loss", "warmup/val_accuracy", "finetune/train_loss",
    "finetune/val_accuracy", "finetune/val_macro_f1", "finetune/lr_head", "cv/accuracy_mean", "cv/accuracy_std",
    "cv/macro_f1_mean", "cv/accuracy_head_only_mean", "holdout/accuracy", "holdout/macro_f1", "holdout/ece",
    "onnx/max_abs_error", "onnx/top1_agreement", "onnx/latency_ms", "time/fine_tune_s", "time/ingest_images_s",
}  # fmt: skip
RUNS = """
import json
from graft.runtime.stack import connect_mlflow
client = connect_mlflow()
(experiment,) = [one for one in client.search_experiments() if one.name == "training_pipeline"]
runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
print(json.dumps([
    {
        "id": run.info.run_id, "parent": run.data.tags.get("mlflow.parentRunId"), "name": run.info.run_name,
        "metrics": run.data.metrics, "params": run.data.params, "tags": run.data.tags,
        "epochs": len(client.get_metric_history(run.info.run_id, "finetune/train_loss")),
        "files": [one.path for place in ("", "figures") for one in client.list_artifacts(run.info.run_id, place)],
        "models": [one.model_id for one in run.outputs.model_outputs],
    }
    for run in runs
]))
"""


@pytest.fixture(scope="module")
def prepared(workshop: Workshop) -> Workshop:
    """A workshop with 250 digits and a config that takes seconds."""
    write_digits(workshop.root / "digits", 25)
    content = yaml.safe_load((workshop.root / "configs" / "demo.yaml").read_text())
    parameters = content["parameters"]
    parameters["data"]["root"] = "digits"
    parameters["training"]["warm_up"]["epochs"] = 2
    parameters["training"]["fine_tune"]["epochs"] = 2
    parameters["cross_validation"] = {"folds": 2}
    parameters["seed"] = 0
    parameters["export"] = {"parity_images": 4}
    (workshop.root / "small.yaml").write_text(yaml.safe_dump(content))
    return workshop


@pytest.fixture(scope="module")
def first(prepared: Workshop) -> Finished:
    """The first run of all."""
    return prepared.run(*BY_ZENML)


def runs(workshop: Workshop) -> list[Any]:
    return list(json.loads(workshop.python(RUNS).splitlines()[-1]))


def test_the_first_run_runs_every_step(prepared: Workshop, first: Finished) -> None:
    assert first.ran == EVERY
    assert "ickle" not in first.output
    parent, *children = runs(prepared)
    assert set(parent["metrics"]) >= HEADLINE
    assert parent["tags"]["graft.status"] == "complete"
    assert re.fullmatch(
        r"(float32|bfloat16) on cpu, channels (last|first), 1 threads", parent["tags"]["graft.compute"]
    )
    assert parent["params"]["training.fine_tune.epochs"] == "2"
    assert {"figures/curves.png", "figures/folds.png", "validation.html", "stages.txt"} <= set(parent["files"])
    assert len(parent["models"]) == 1
    assert [child["name"] for child in children] == ["fold_0", "fold_1"]
    for child in children:
        assert child["parent"] == parent["id"]
        assert child["epochs"] == 2
        assert 0 < child["metrics"]["fold/accuracy"] <= 1


def test_the_summary_shows_the_run(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    output = prepared.run("graft", "summary").output
    assert "Folds" in output
    model = next(line.split()[-1] for line in output.splitlines() if "Model" in line)
    said = prepared.run("graft", "predict", model, str(next((prepared.root / "digits" / "7").iterdir())))
    assert "%" in said.output


def test_the_second_run_is_cached_and_still_whole_in_mlflow(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    second = prepared.run(*AGAIN)
    assert second.ran == ALWAYS
    assert second.cached == EVERY - ALWAYS
    before, *_, after = runs(prepared)
    timeless = {name for name in before["metrics"] if not name.startswith("time/")}
    assert {name: after["metrics"][name] for name in timeless} == {
        name: before["metrics"][name] for name in timeless
    }
    assert after["epochs"] == before["epochs"]
    assert after["models"] == before["models"]
    assert "fine_tune" in after["tags"]["graft.reused_steps"]


def test_the_registered_model_loads_by_its_alias(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    output = prepared.python("""
import mlflow, numpy as np
from zenml.client import Client
from graft.runtime.stack import connect_mlflow
client = connect_mlflow()
model = mlflow.pyfunc.load_model("models:/digits-demo@challenger")
print(np.round(sum(model.predict({"image": np.zeros((2, 20, 30, 3), np.uint8)})["probabilities"][1]), 4))
version = client.get_model_version_by_alias("digits-demo", "challenger")
twin = Client().get_model_version("digits-demo", version.tags["zenml.model_version_id"])
known = client.search_model_versions("name = 'digits-demo'")
print(version.version, twin.run_metadata["mlflow_version"], len(known))
""")
    assert output.splitlines()[-2:] == ["1.0", "1 1 1"]


def test_a_changed_value_reruns_what_depends_on_it(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    prepared.edit("small.yaml", "parity_images: 4", "parity_images: 5")
    assert prepared.run(*AGAIN).ran == ALWAYS | {"validate_onnx"}


def test_a_file_that_nothing_is_trained_on_trains_nothing_again(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    strays = [prepared.root / "digits" / ".DS_Store", prepared.root / "digits" / "3" / "page.jpg"]
    for stray in strays:
        stray.write_text("<html>" * 30)
    finished = prepared.run(*AGAIN)
    assert finished.ran == ALWAYS | {"validate_data", "split_data", "export_onnx", "validate_onnx"}
    assert "3/page.jpg" in finished.output
    for stray in strays:
        stray.unlink()


def test_a_changed_helper_reruns_what_depends_on_it(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    prepared.edit("graft/onnx_model.py", "odd * (half % 2)", "(half % 2) * odd")
    assert prepared.run(*AGAIN).ran == ALWAYS | {"export_onnx", "validate_onnx"}


def test_a_changed_image_reruns_what_depends_on_it(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    image = prepared.root / "digits" / "3" / sorted((prepared.root / "digits" / "3").iterdir())[0].name
    image.write_bytes(image.read_bytes()[:60])
    finished = prepared.run(*AGAIN)
    assert finished.ran == EVERY
    assert f"3/{image.name}" in finished.output
    assert runs(prepared)[-3]["metrics"]["data/quarantined"] == 1


def test_a_killed_run_goes_on_after_its_last_epoch(prepared: Workshop, first: Finished, tmp_path: Path) -> None:
    assert first.code == 0
    prepared.edit("small.yaml", "seed: 0", "seed: 1")
    running = prepared.start(*AGAIN, output=tmp_path / "output")
    deadline = time.monotonic() + 300
    while (tmp_path / "output").read_text().count("finetune 1/2") < 2:  # in the first fold, and in the second
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = prepared.run(*AGAIN)
    assert {"fold_1", "warm_up_head", "fine_tune"} <= finished.ran <= EVERY - {"plan_training", "fold_0"}
    epochs = ("warmup 1/2", "warmup 2/2", "finetune 1/2", "finetune 2/2")
    # The first epoch of fine-tuning is the final model's: the second fold's was finished before.
    assert [finished.output.count(f"{epoch}: loss") for epoch in epochs] == [1, 1, 1, 2]


PROMOTION = ("zenml", "pipeline", "run", "pipelines.promotion.promotion_pipeline", "-c", "gate.yaml")
ALIASES = """
import json
from graft.runtime.stack import connect_mlflow
from graft.runtime.registry import promote, resolve, roll_back
from zenml.client import Client
client = connect_mlflow()
def show():
    found = {}
    for alias in ("challenger", "champion", "previous_champion"):
        version = resolve(client, "digits-demo", alias)
        found[alias] = version and str(version.version)
        if alias == "champion" and version:
            twin = Client().get_model_version("digits-demo", version.tags["zenml.model_version_id"])
            found["stage"] = twin.stage
    print(json.dumps(found))
"""


def aliases(workshop: Workshop, code: str) -> list[dict[str, str]]:
    """What the aliases are at each call of ``show()``."""
    return [json.loads(line) for line in workshop.python(ALIASES + code).splitlines() if line.startswith("{")]


def write_gate(workshop: Workshop, **gate: float) -> None:
    content = yaml.safe_load((workshop.root / "configs" / "promotion.yaml").read_text())
    content["parameters"]["data"]["root"] = "digits"
    content["parameters"]["gate"] = gate
    (workshop.root / "gate.yaml").write_text(yaml.safe_dump(content))


def test_a_challenger_below_the_floor_is_refused_with_every_reason(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    write_gate(prepared, min_accuracy=1.0, min_images=10_000)
    refused = prepared.run(*PROMOTION, check=False)
    assert refused.code == 1
    assert "images that neither model was trained on: required at least 10000, found " in refused.output
    assert "accuracy of the challenger: required at least 1.000, found 0." in refused.output
    assert "Traceback" not in refused.output
    # The first version, from the first run, is made champion by hand for what follows.
    before, after = aliases(prepared, "show(); promote(client, 'digits-demo', '1'); show()")
    assert before["champion"] is None
    assert after["champion"] == "1"
    assert after["challenger"] == before["challenger"] != "1"


def test_promotion_moves_the_alias_and_rollback_undoes_it(prepared: Workshop, first: Finished) -> None:
    assert first.code == 0
    write_gate(prepared, min_accuracy=0.3, min_images=10)
    prepared.run("graft", "promote", "gate.yaml")
    promoted, undone = aliases(prepared, "show(); print(roll_back(client, 'digits-demo')); show()")
    newest = promoted["challenger"]
    assert promoted == {"challenger": newest, "champion": newest, "previous_champion": "1", "stage": "production"}
    assert undone == promoted | {"champion": "1", "previous_champion": None}
    again = prepared.run("graft", "rollback", "digits-demo", check=False)
    assert again.code == 1
    assert "Error: the registry holds no previous champion" in again.output
