"""The exported file is its source, preprocessing and calibration included."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from graft.checkpoint import Checkpoint
from graft.config import ExportConfig, ModelConfig
from graft.errors import DataError, ExportError
from graft.learning.history import EpochMetrics
from graft.networks.backbones import build, preprocessing
from graft.networks.transforms import Preprocessing
from graft.networks.weights import licence
from graft.onnx_model import OnnxModel, export, validate
from graft.predict import predict
from graft.recipe import contiguous

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
CLASSES = ["ant", "bee", "größer"]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(
        MODEL.architecture, MODEL.dropout, CLASSES, Preprocessing(60, 48, (0.5,) * 3, (0.5,) * 3), "fine_tune",
        contiguous(build(MODEL, 3, seed=0)), licence(MODEL), {}, EpochMetrics(1, 1, 0.5, 0.5, 0.5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint) -> OnnxModel:
    return export(checkpoint, 0.5, 20, {"metrics": "{}"})


@pytest.fixture
def odd_images(tmp_path: Path) -> list[Path]:
    """Images of odd sizes, larger and smaller than the model's own, upright and lying."""
    generator = np.random.default_rng(0)
    paths = []
    for height, width in ((8, 8), (61, 60), (60, 61), (48, 99), (301, 77), (1, 9), (200, 203)):
        smooth = generator.integers(0, 256, (3, 4, 3)).astype(np.uint8)
        image = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(tmp_path / f"{height}x{width}.png")
        image.save(paths[-1])
    return paths


def test_it_agrees_with_torch_on_images_of_any_size(
    checkpoint: Checkpoint, exported: OnnxModel, odd_images: list[Path]
) -> None:
    check = validate(exported, checkpoint, 0.5, odd_images, ExportConfig(max_abs_error=1e-3))
    assert check.images == len(odd_images)
    assert check.top1_agreement == 1.0
    assert set(check.named()) == {"onnx/max_abs_error", "onnx/top1_agreement", "onnx/latency_ms"}


def test_another_model_is_caught(checkpoint: Checkpoint, exported: OnnxModel, odd_images: list[Path]) -> None:
    other = replace(checkpoint, weights=contiguous(build(MODEL, 3, seed=1)))
    with pytest.raises(ExportError, match="ONNX Runtime and torch differ by"):
        validate(exported, other, 0.5, odd_images, ExportConfig())


def test_a_wrong_temperature_is_caught(
    checkpoint: Checkpoint, exported: OnnxModel, odd_images: list[Path]
) -> None:
    with pytest.raises(ExportError, match="differ by"):
        validate(exported, checkpoint, 5.0, odd_images, ExportConfig())


def test_input_output_and_metadata_are_the_contract(exported: OnnxModel) -> None:
    session = exported.session()
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    assert [isinstance(axis, str) for axis in image.shape] == [True, True, True, False]
    assert (probabilities.name, probabilities.type, probabilities.shape[1]) == (
        "probabilities",
        "tensor(float)",
        3,
    )
    metadata = exported.metadata
    assert json.loads(metadata["classes"]) == CLASSES
    assert metadata["preprocessing"].startswith("short side to 60 px")
    assert metadata["metrics"] == "{}"
    assert {"architecture", "weights_licence", "temperature", "checkpoint_sha256"} <= set(metadata)


def test_a_batch_gives_what_its_images_give_alone(exported: OnnxModel) -> None:
    batch = np.random.default_rng(1).integers(0, 256, (5, 70, 90, 3)).astype(np.uint8)
    session = exported.session()
    together = session.run(None, {"image": batch})[0]
    alone = [session.run(None, {"image": image[np.newaxis]})[0][0] for image in batch]
    assert together == pytest.approx(np.stack(alone), abs=1e-5)
    assert together.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_it_is_one_valid_file_of_the_opset_asked_for(exported: OnnxModel) -> None:
    model = onnx.load_from_string(exported.content)
    assert [one.version for one in model.opset_import if one.domain == ""] == [20]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_prediction_needs_onnxruntime_pillow_and_numpy_alone(
    exported: OnnxModel, odd_images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(exported.content)
    forbidden = [
        "torch",
        "torchvision",
        "zenml",
        "mlflow",
        "onnx",
        "pandas",
        "sklearn",
        "scipy",
        "pydantic",
        "yaml",
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({forbidden!r}))\n"
        f"from graft.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(tmp_path / "model.onnx"), *map(str, odd_images)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(odd_images)
    assert all(any(name in line for name in CLASSES) for line in lines)


def test_predictions_are_likeliest_first(exported: OnnxModel, odd_images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(exported.content)
    for prediction in predict(tmp_path / "model.onnx", odd_images):
        shares = [share for _, share in prediction.classes]
        assert shares == sorted(shares, reverse=True)
        assert {name for name, _ in prediction.classes} == set(CLASSES)


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.onnx: is no"):
        list(predict(tmp_path / "model.onnx", []))


def test_the_native_preprocessing_of_weights_is_used() -> None:
    assert preprocessing(ModelConfig(architecture="mobilenet_v2")).resize_px == 232
