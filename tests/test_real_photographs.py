"""Real photographs, ImageNet weights and the config that a user copies: ants and bees with MobileNetV2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bad_files import plant
from conftest import REPOSITORY, Workspace

from graft.config.parameters import SplitConfig, ValidationConfig
from graft.config.yaml_file import training_parameters
from graft.data.manifest import scan
from graft.data.splits import make_folds, split_images
from graft.data.validation import validate_images
from graft.training.folds import cross_validate_fold
from graft.training.plan import make_plan
from graft.training.standalone import prepare_standalone

pytestmark = [pytest.mark.pipeline, pytest.mark.real_data]
ACCURACY_WITHOUT_GRAFT = """
import sys
sys.modules.update(dict.fromkeys(["torch", "zenml", "mlflow", "graft"]))
import json, numpy as np, onnxruntime
from pathlib import Path
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
correct = total = 0
for path in sorted(Path(sys.argv[2]).glob("*/*.jpg")):
    pixels = np.asarray(Image.open(path).convert("RGB"))[None]
    correct += classes[int(session.run(None, {"image": pixels})[0][0].argmax())] == path.parent.name
    total += 1
print(correct / total)
"""


def test_validation_of_ants_and_bees_passes_and_warns_of_grey_images(real_data: Path) -> None:
    report = validate_images(scan(real_data / "data" / "ants_bees"), ValidationConfig(max_grey_fraction=0.0), 5)
    assert len(report.table) == 397
    assert report.quarantine.empty
    grey = [
        "train/ants/154124431_65460430f2.jpg",
        "val/ants/854534770_31f6156383.jpg",
        "val/bees/290082189_f66cb80bfc.jpg",
    ]
    assert {check.name: check.failing for check in report.check_results if not check.passed} == {
        "mixed grey and colour": grey
    }


@pytest.fixture(scope="module")
def planted(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Ants and bees with 14 faulty images, and the check that each must fail, by path."""
    folder = tmp_path_factory.mktemp("planted") / "ants_bees"
    shutil.copytree(real_data / "data" / "ants_bees", folder, copy_function=shutil.copyfile)
    return folder, plant(folder)


def test_validation_names_every_planted_fault_with_its_path(planted: tuple[Path, dict[str, str]]) -> None:
    folder, faults = planted
    manifest = scan(folder)
    report = validate_images(manifest, ValidationConfig(), 5)
    failures = {(path, check.name) for check in report.check_results for path in check.failing if not check.passed}
    assert set(faults.items()) <= failures
    # The only other failing images are the originals of planted duplicates.
    originals = {path for path, _ in failures} - set(faults)
    assert len(originals) == 5  # not that of soft.jpg, whose detail is gone
    assert {name for path, name in failures if path in originals} <= {
        "exact duplicates", "near duplicates", "in two given splits"
    }  # fmt: skip
    left_out = {"cannot be decoded", "too small", "extreme aspect ratio", "blank", "conflicting labels"}
    assert report.quarantine["path"].tolist() == sorted(path for path, name in faults.items() if name in left_out)
    split = split_images(manifest, report.clusters, SplitConfig())
    assert split.records("excluded")["path"].tolist() == ["train/ants/held_out.jpg"]


def test_pipeline_on_ants_and_bees_is_accurate_despite_planted_faults(
    workspace: Workspace, real_data: Path, planted: tuple[Path, dict[str, str]]
) -> None:
    photographs, _ = planted
    weights = real_data / "weights" / "mobilenet_v2_imagenet1k.safetensors"
    workspace.run(
        "graft", "run", "configs/photos.yaml",
        "--set", f"data.root={photographs}", "--set", f"model.weights={weights}",
    )  # fmt: skip
    output = workspace.python("""
import json
from graft.integrations.stack import connect_mlflow
client = connect_mlflow()
version = client.get_model_version_by_alias("photos", "challenger")
run = client.get_run(version.run_id)
from zenml.client import Client
latest = Client().list_pipeline_runs(sort_by="desc:created", size=1).items[0]
print(json.dumps(run.data.metrics | {"uri": latest.steps["export_onnx"].outputs["onnx_model"][0].uri}))
""")
    metrics = json.loads(output.splitlines()[-1])
    assert metrics["holdout/accuracy"] >= 0.92
    assert metrics["cv/accuracy_mean"] >= 0.93
    assert metrics["data/images"] == 397 + 14
    assert metrics["data/quarantined"] == 9
    assert metrics["onnx/top1_agreement"] == 1.0
    (workspace.root / "accuracy.py").write_text(ACCURACY_WITHOUT_GRAFT)
    accuracy = workspace.run("python", "accuracy.py", f"{metrics['uri']}/model.onnx", str(photographs / "val"))
    assert float(accuracy.output.splitlines()[-1]) == pytest.approx(metrics["holdout/accuracy"], abs=0.01)


@pytest.mark.parametrize(("dataset", "fold"), [("alphabets", 3), ("magnetic_tiles", 1)])
def test_default_fine_tuning_does_not_forget_far_tasks(real_data: Path, dataset: str, fold: int) -> None:
    """Folds in which batch norms that learned their statistics from few images once lost half of the accuracy."""
    weights = real_data / "weights" / "mobilenet_v2_imagenet1k_bn.safetensors"
    overrides = [f"data.root={real_data / 'data' / dataset}", f"model.weights={weights}"]
    parameters = training_parameters(REPOSITORY / "configs" / "photos.yaml", overrides)
    split, model = prepare_standalone(parameters)
    plan = make_plan(split, model, parameters.training, parameters.seed)
    assert plan.decision.unfreeze_epochs
    folds = make_folds(split, parameters.cross_validation.folds, parameters.seed)
    result = cross_validate_fold(
        folds, fold, model.config, parameters.training, plan, seed=parameters.seed, on_epoch_end=lambda *_: None
    )
    assert not result.failure
    assert result.fine_tuned.accuracy >= result.head_only.accuracy - 0.1  # three of 33 images
