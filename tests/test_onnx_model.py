"""The exported model computes what its checkpoint does, preprocessing and calibration included."""

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

from graft.config.parameters import ExportConfig, ModelConfig
from graft.errors import DataError, ExportError
from graft.export.onnx_model import OnnxModel, export
from graft.export.parity import compare_with_torch
from graft.inference.classifier import predict
from graft.models.backbones import build_model, preprocessing_for
from graft.models.transforms import Preprocessing
from graft.models.weights import weights_licence
from graft.training.checkpoint import Checkpoint
from graft.training.history import FINE_TUNE
from graft.training.recipe import cpu_state_dict

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
CLASSES = ["ant", "bee", "größer"]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(
        MODEL.architecture, MODEL.dropout, CLASSES, Preprocessing(60, 48, (0.5,) * 3, (0.5,) * 3), FINE_TUNE,
        cpu_state_dict(build_model(MODEL, 3, seed=0)), weights_licence(MODEL), {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint) -> OnnxModel:
    return export(checkpoint, 0.5, 20, {"metrics": "{}"})


@pytest.fixture
def odd_images(tmp_path: Path) -> list[Path]:
    """Images of odd sizes, larger and smaller than the model's own, in portrait and landscape format."""
    generator = np.random.default_rng(0)
    paths = []
    for height, width in ((8, 8), (61, 60), (60, 61), (48, 99), (301, 77), (1, 9), (200, 203), (2, 999), (3000, 1)):
        smooth = generator.integers(0, 256, (3, 4, 3)).astype(np.uint8)
        image = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(tmp_path / f"{height}x{width}.png")
        image.save(paths[-1])
    return paths


def test_exported_model_agrees_with_torch_on_images_of_any_size(
    checkpoint: Checkpoint, exported: OnnxModel, odd_images: list[Path]
) -> None:
    check = compare_with_torch(exported, checkpoint, 0.5, odd_images, ExportConfig(max_abs_error=1e-3))
    assert check.images == len(odd_images)
    assert check.top1_agreement == 1.0
    assert set(check.to_metrics()) == {"onnx/max_abs_error", "onnx/top1_agreement", "onnx/latency_ms"}


def test_comparison_raises_for_weights_of_another_model(
    checkpoint: Checkpoint, exported: OnnxModel, odd_images: list[Path]
) -> None:
    other = replace(checkpoint, weights=cpu_state_dict(build_model(MODEL, 3, seed=1)))
    with pytest.raises(ExportError, match="ONNX Runtime and torch differ by"):
        compare_with_torch(exported, other, 0.5, odd_images, ExportConfig())


def test_comparison_raises_for_wrong_temperature(
    checkpoint: Checkpoint, exported: OnnxModel, odd_images: list[Path]
) -> None:
    with pytest.raises(ExportError, match="differ by"):
        compare_with_torch(exported, checkpoint, 5.0, odd_images, ExportConfig())


def test_exported_model_has_documented_input_output_and_metadata(exported: OnnxModel) -> None:
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


def test_batch_gives_same_probabilities_as_single_images(exported: OnnxModel) -> None:
    batch = np.random.default_rng(1).integers(0, 256, (5, 70, 90, 3)).astype(np.uint8)
    session = exported.session()
    batched = session.run(None, {"image": batch})[0]
    single = [session.run(None, {"image": image[np.newaxis]})[0][0] for image in batch]
    assert batched == pytest.approx(np.stack(single), abs=1e-5)
    assert batched.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_exported_model_has_requested_opset_and_no_external_data(exported: OnnxModel) -> None:
    model = onnx.load_from_string(exported.content)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [20]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_exported_graph_never_resizes_more_than_eight_short_sides(exported: OnnxModel) -> None:
    model = onnx.load_from_string(exported.content)
    (resized,) = [node.output[0] for node in model.graph.node if node.op_type == "Resize"]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(resized))
    session = OnnxModel(model.SerializeToString()).session()
    for height, width, shape in ((1, 20_000, (60, 480)), (20_001, 2, (510, 60)), (30, 240, (60, 480))):
        result = session.run([resized], {"image": np.zeros((1, height, width, 3), np.uint8)})[0]
        assert result.shape == (1, 3, *shape)


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (20, 9)])
def test_exported_model_has_the_lowest_ir_version_of_its_opset(
    checkpoint: Checkpoint, exported: OnnxModel, opset: int, ir_version: int
) -> None:
    result = exported if opset == 20 else export(checkpoint, 0.5, opset, {})
    model = onnx.load_from_string(result.content)
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir_version)
    onnx.checker.check_model(model, full_check=True)


def test_exported_model_contains_no_path_or_address_of_this_machine(exported: OnnxModel) -> None:
    for text in (b"onnx_model.py", str(Path(__file__).parents[1]).encode(), b" at 0x"):
        assert text not in exported.content


def test_predict_command_needs_only_onnxruntime_pillow_and_numpy(
    exported: OnnxModel, odd_images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(exported.content)
    blocked = [
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
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"from graft.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "predict", str(tmp_path / "model.onnx"), *map(str, odd_images)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == len(odd_images)
    assert all(any(name in line for name in CLASSES) for line in lines)


def test_predictions_are_sorted_by_probability(exported: OnnxModel, odd_images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(exported.content)
    for prediction in predict(tmp_path / "model.onnx", odd_images):
        probabilities = [probability for _, probability in prediction.classes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert {name for name, _ in prediction.classes} == set(CLASSES)


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_predict_refuses_file_that_is_not_an_exported_model(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.onnx: is not"):
        list(predict(tmp_path / "model.onnx", []))


def test_preprocessing_is_that_of_the_pretrained_weights() -> None:
    assert preprocessing_for(ModelConfig(architecture="mobilenet_v2")).resize_px == 232
