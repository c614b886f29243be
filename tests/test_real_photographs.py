"""Real photographs, real ImageNet weights, the config that a user copies: ants and bees with MobileNetV2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Workshop

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


def test_ants_and_bees_end_to_end(workshop: Workshop, real_data: Path) -> None:
    photographs = real_data / "data" / "ants_bees"
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
    assert found["data/images"] == 397
    assert found["onnx/top1_agreement"] == 1.0
    (workshop.root / "alone.py").write_text(ONNX_ALONE)
    alone = workshop.run("python", "alone.py", f"{found['uri']}/model.onnx", str(photographs / "val"))
    assert float(alone.output.splitlines()[-1]) == pytest.approx(found["holdout/accuracy"], abs=0.01)
