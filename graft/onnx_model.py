"""Pixels in, probabilities out: the exported model holds its own preprocessing and calibration."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from graft.checkpoint import Checkpoint
from graft.config import ExportConfig
from graft.data.images import read_rgb
from graft.errors import ExportError
from graft.learning.calibration import probabilities
from graft.networks.fusing import fused
from graft.networks.transforms import Preprocessing, for_evaluation, normalise

LATENCY_RUNS = 20


@dataclass(frozen=True)
class OnnxModel:
    """One self-contained ONNX file.

    Input ``image``: uint8 ``[batch, height, width, 3]``, every axis free; output ``probabilities``: float32
    ``[batch, classes]``, calibrated. ``metadata`` is what the file says of itself.
    """

    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata: class names, architecture, preprocessing in words, origin, metrics, licence."""
        return dict(self.session().get_modelmeta().custom_metadata_map)

    def session(self) -> onnxruntime.InferenceSession:
        """An ONNX Runtime session on the CPU."""
        return onnxruntime.InferenceSession(self.content, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class OnnxCheck:
    """ONNX Runtime against torch on real images, each from its file on.

    ``max_abs_error`` is the largest difference of any probability; ``top1_agreement`` the share of images
    that both name alike; ``latency_ms`` the median time of one image through ONNX Runtime.
    """

    images: int
    max_abs_error: float
    top1_agreement: float
    latency_ms: float

    def named(self) -> dict[str, float]:
        """The metrics under their names in MLflow."""
        names = ("max_abs_error", "top1_agreement", "latency_ms")
        return {f"onnx/{name}": getattr(self, name) for name in names}


class Deployable(nn.Module):
    """A classifier with its preprocessing before it and its calibration behind it."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.temperature = temperature

    def forward(self, image: Tensor) -> Tensor:
        """Turn uint8 ``[batch, height, width, 3]`` into probabilities float32 ``[batch, classes]``."""
        resize, crop = self.preprocessing.resize_px, self.preprocessing.crop_px
        height, width = image.shape[1], image.shape[2]
        short = torch.sym_min(height, width)
        size = (resize * height // short, resize * width // short)
        pixels = image.permute(0, 3, 1, 2).float()
        pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)  # type: ignore[arg-type]
        top, left = _centre(size[0], crop), _centre(size[1], crop)
        # Selected by index, not sliced: so the exporter knows that what is left has the size of the crop.
        inside = torch.arange(crop, device=image.device)
        pixels = pixels.index_select(2, inside + top).index_select(3, inside + left).round().clamp(0, 255)
        logits = self.model(normalise(pixels, self.preprocessing))
        return torch.softmax(logits / self.temperature, dim=1)


def _centre(length: int | torch.SymInt, crop: int) -> int | torch.SymInt:
    """Where a centre crop starts; halves go to the even number, as torchvision's crop has it."""
    half, odd = (length - crop) // 2, (length - crop) % 2
    return half + odd * (half % 2)


def export(checkpoint: Checkpoint, temperature: float, opset: int, facts: dict[str, str]) -> OnnxModel:
    """Export a checkpoint as one ONNX file with ``facts`` and the model's own facts in its metadata."""
    deployable = Deployable(_quick_to_trace(checkpoint.model()), checkpoint.preprocessing, temperature).eval()
    example = torch.zeros(2, checkpoint.preprocessing.resize_px + 3, checkpoint.preprocessing.resize_px + 9, 3)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            deployable, (example.to(torch.uint8),), dynamo=True, opset_version=opset, external_data=False,
            input_names=["image"], output_names=["probabilities"], dynamic_shapes=(axes,), verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, _own_facts(checkpoint, temperature) | facts)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return OnnxModel(buffer.getvalue())


def _quick_to_trace(model: nn.Module) -> nn.Module:
    """A copy that computes the same: batch norms, and whatever works in place, are traced slowly."""
    model = fused(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return model


def validate(
    exported: OnnxModel, checkpoint: Checkpoint, temperature: float, paths: list[Path], config: ExportConfig
) -> OnnxCheck:
    """Check the file with ``onnx.checker`` and compare it with torch; raises ``ExportError`` where they differ."""
    try:
        onnx.checker.check_model(onnx.load_from_string(exported.content), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exported model is not valid ONNX ({error}); report this with your config."
        ) from error
    session, model = exported.session(), checkpoint.model()
    expected, received, seconds = [], [], []
    for path in tqdm(paths, desc="Comparing with torch", unit="image", disable=None, leave=False):
        pixels = read_rgb(path)
        expected.append(_by_torch(model, pixels, checkpoint.preprocessing, temperature))
        received.append(session.run(None, {"image": pixels[np.newaxis]})[0][0])
    pixels = read_rgb(paths[0])[np.newaxis]
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        session.run(None, {"image": pixels})
        seconds.append(time.perf_counter() - start)
    check = OnnxCheck(
        len(paths),
        float(np.abs(np.stack(expected) - np.stack(received)).max()),
        float((np.argmax(expected, axis=1) == np.argmax(received, axis=1)).mean()),
        float(np.median(seconds) * 1000),
    )
    if check.max_abs_error > config.max_abs_error:
        raise ExportError(
            f"ONNX Runtime and torch differ by {check.max_abs_error:.2g} in a probability, more than "
            f"export.max_abs_error ({config.max_abs_error:g}); raise it if that is near enough for you."
        )
    return check


@torch.inference_mode()
def _by_torch(
    model: nn.Module, pixels: np.ndarray, preprocessing: Preprocessing, temperature: float
) -> np.ndarray:
    """The way of evaluation, which shares no resizing code with the exported graph."""
    image = for_evaluation(torch.from_numpy(pixels.copy()).permute(2, 0, 1), preprocessing)
    logits = model(normalise(image.unsqueeze(0), preprocessing)).numpy()
    return np.asarray(probabilities(logits / temperature)[0])


def _own_facts(checkpoint: Checkpoint, temperature: float) -> dict[str, str]:
    return {
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "architecture": checkpoint.architecture,
        "preprocessing": checkpoint.preprocessing.in_words(),
        "input": "image: uint8 [batch, height, width, 3], upright RGB, any size",
        "output": "probabilities: float32 [batch, classes], calibrated",
        "temperature": repr(temperature),
        "weights_licence": checkpoint.weights_licence,
        "checkpoint_sha256": checkpoint.fingerprint,
    }


class _quiet:  # noqa: N801
    """Silence loggers that tell a user nothing."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
