"""Compares an exported model with the checkpoint that it was made from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from tqdm import tqdm

from graft.config.parameters import ExportConfig
from graft.data.images import read_rgb
from graft.errors import ExportError
from graft.evaluation.calibration import probabilities
from graft.export.onnx_model import OnnxModel
from graft.models.transforms import Preprocessing, normalize, resize_and_crop
from graft.training.checkpoint import Checkpoint

LATENCY_RUNS = 20


@dataclass(frozen=True)
class OnnxCheck:
    """How ONNX Runtime compares with torch on real images, decoding and preprocessing included.

    ``max_abs_error`` is the largest difference in any probability, ``top1_agreement`` the share of images to which
    both assign the same class (0..1), ``latency_ms`` the median time of one image in ONNX Runtime.
    """

    images: int
    max_abs_error: float
    top1_agreement: float
    latency_ms: float

    def to_metrics(self) -> dict[str, float]:
        """The metrics by their names in MLflow."""
        names = ("max_abs_error", "top1_agreement", "latency_ms")
        return {f"onnx/{name}": getattr(self, name) for name in names}


def compare_with_torch(
    exported: OnnxModel, checkpoint: Checkpoint, temperature: float, paths: list[Path], config: ExportConfig
) -> OnnxCheck:
    """Run ``onnx.checker`` on the file, and compare its probabilities with torch's on these images.

    Raises ``ExportError`` if the file is not valid ONNX, or if they differ by more than ``config.max_abs_error``.
    """
    try:
        onnx.checker.check_model(onnx.load_from_string(exported.content), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported model is not valid ONNX ({error}); report this with your config.") from error
    session, model = exported.session(), checkpoint.model()
    expected, actual, seconds = [], [], []
    for path in tqdm(paths, desc="Comparing with torch", unit="image", disable=None, leave=False):
        pixels = read_rgb(path)
        expected.append(_torch_probabilities(model, pixels, checkpoint.preprocessing, temperature))
        actual.append(session.run(None, {"image": pixels[np.newaxis]})[0][0])
    pixels = read_rgb(paths[0])[np.newaxis]
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        session.run(None, {"image": pixels})
        seconds.append(time.perf_counter() - start)
    check = OnnxCheck(
        len(paths),
        float(np.abs(np.stack(expected) - np.stack(actual)).max()),
        float((np.argmax(expected, axis=1) == np.argmax(actual, axis=1)).mean()),
        float(np.median(seconds) * 1000),
    )
    if check.max_abs_error > config.max_abs_error:
        raise ExportError(
            f"ONNX Runtime and torch differ by {check.max_abs_error:.2g} in a probability, more than "
            f"export.max_abs_error ({config.max_abs_error:g}); raise it if that difference is acceptable."
        )
    return check


@torch.inference_mode()
def _torch_probabilities(
    model: nn.Module, pixels: np.ndarray, preprocessing: Preprocessing, temperature: float
) -> np.ndarray:
    """Probabilities as in evaluation, which shares no resizing code with the exported graph."""
    image = resize_and_crop(torch.from_numpy(pixels.copy()).permute(2, 0, 1), preprocessing)
    logits = model(normalize(image.unsqueeze(0), preprocessing)).numpy()
    return np.asarray(probabilities(logits / temperature)[0])
