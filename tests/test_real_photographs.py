"""Real photographs, real ImageNet weights, the config that a user copies: ants and bees with MobileNetV2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bad_files import plant
from conftest import Workshop

from graft.config import SplitConfig, ValidationConfig
from graft.data.manifest import scan
from graft.data.splits import split_images
from graft.data.validation import validate

pytestmark = [pytest.mark.pipeline, pytest.mark.real_data]
ONNX_ALONE = """
import sys
sys.modules.update(dict.fromkeys(["torch", "zenml", "mlflow", "graft"]))
import json, numpy as np, onnxruntime
from pathlib import Path
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
right = total = 0
for path in sorted(Path(sys.argv[2]).glob("*/*.jpg")):
    pixels = np.asarray(Image.open(path).convert("RGB"))[None]
    right += classes[int(session.run(None, {"image": pixels})[0][0].argmax())] == path.parent.name
    total += 1
print(right / total)
"""


def test_ants_and_bees_pass_with_what_is_odd_about_them_named(real_data: Path) -> None:
    report = validate(scan(real_data / "data" / "ants_bees"), ValidationConfig(max_grey_fraction=0.0), 5)
    assert len(report.table) == 397
    assert report.quarantine.empty
    grey = [
        "train/ants/154124431_65460430f2.jpg",
        "val/ants/854534770_31f6156383.jpg",
        "val/bees/290082189_f66cb80bfc.jpg",
    ]
    assert {one.name: one.failing for one in report.outcomes if not one.passed} == {
        "grey among colour, or the reverse": grey
    }


@pytest.fixture(scope="module")
def planted(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Ants and bees with 14 faults among them, and what must be said of each."""
    folder = tmp_path_factory.mktemp("planted") / "ants_bees"
    shutil.copytree(real_data / "data" / "ants_bees", folder, copy_function=shutil.copyfile)
    return folder, plant(folder)


def test_every_planted_fault_is_named_with_its_path(planted: tuple[Path, dict[str, str]]) -> None:
    folder, faults = planted
    manifest = scan(folder)
    report = validate(manifest, ValidationConfig(), 5)
    found = {(path, outcome.name) for outcome in report.outcomes for path in outcome.failing if not outcome.passed}
    assert set(faults.items()) <= found
    # Beside them are named their own originals, as duplicates, and nothing else.
    originals = {path for path, _ in found} - set(faults)
    assert len(originals) == 6
    assert {name for path, name in found if path in originals} <= {
        "exact duplicates", "near duplicates", "in two given splits"
    }  # fmt: skip
    left_out = {"cannot be decoded", "too small", "too long and thin", "blank", "conflicting labels"}
    assert report.quarantine["path"].tolist() == sorted(path for path, name in faults.items() if name in left_out)
    split = split_images(manifest, report.clusters, SplitConfig())
    assert split.rows("excluded")["path"].tolist() == ["train/ants/held_out.jpg"]


def test_ants_and_bees_end_to_end_in_spite_of_faults(
    workshop: Workshop, real_data: Path, planted: tuple[Path, dict[str, str]]
) -> None:
    photographs, _ = planted
    weights = real_data / "weights" / "mobilenet_v2_imagenet1k.safetensors"
    workshop.run(
        "graft", "run", "configs/photos.yaml",
        "--set", f"data.root={photographs}", "--set", f"model.weights={weights}",
    )  # fmt: skip
    output = workshop.python("""
import json
from graft.runtime.stack import connect_mlflow
client = connect_mlflow()
version = client.get_model_version_by_alias("photos", "challenger")
run = client.get_run(version.run_id)
from zenml.client import Client
latest = Client().list_pipeline_runs(sort_by="desc:created", size=1).items[0]
print(json.dumps(run.data.metrics | {"uri": latest.steps["export_onnx"].outputs["onnx_model"][0].uri}))
""")
    found = json.loads(output.splitlines()[-1])
    assert found["holdout/accuracy"] >= 0.92
    assert found["cv/accuracy_mean"] >= 0.93
    assert found["data/images"] == 397 + 14
    assert found["data/quarantined"] == 9
    assert found["onnx/top1_agreement"] == 1.0
    (workshop.root / "alone.py").write_text(ONNX_ALONE)
    alone = workshop.run("python", "alone.py", f"{found['uri']}/model.onnx", str(photographs / "val"))
    assert float(alone.output.splitlines()[-1]) == pytest.approx(found["holdout/accuracy"], abs=0.01)
