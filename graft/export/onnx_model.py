"""The exported model: one ONNX file that contains its preprocessing and calibration."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.models.fusion import fuse_conv_bn
from graft.models.transforms import Preprocessing, central_length, normalize
from graft.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class OnnxModel:
    """One self-contained ONNX file.

    Input ``image``: uint8 ``[batch, height, width, 3]``, batch, height and width dynamic; output ``probabilities``:
    float32 ``[batch, classes]``, calibrated.
    """

    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata: class names, architecture, preprocessing, data and runs, metrics, licence."""
        return dict(self.session().get_modelmeta().custom_metadata_map)

    def session(self) -> onnxruntime.InferenceSession:
        """An ONNX Runtime session on the CPU."""
        return onnxruntime.InferenceSession(self.content, providers=["CPUExecutionProvider"])


class Deployable(nn.Module):
    """A classifier between its preprocessing and its calibration, as it is exported."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.temperature = temperature

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 ``[batch, height, width, 3]`` to probabilities float32 ``[batch, classes]``."""
        resize, crop = self.preprocessing.resize_px, self.preprocessing.crop_px
        height, width = image.shape[1], image.shape[2]
        rows, columns = central_length(height, width), central_length(width, height)
        image = image.narrow(1, (height - rows) // 2, rows).narrow(2, (width - columns) // 2, columns)
        for side in image.shape[1:3]:
            torch._check(side > 0)  # which the exporter cannot know of a part with dynamic ends
        short = torch.sym_min(rows, columns)
        size = (resize * rows // short, resize * columns // short)
        pixels = image.permute(0, 3, 1, 2).float()
        pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)  # type: ignore[arg-type]
        top, left = _crop_start(size[0], crop), _crop_start(size[1], crop)
        # Selected by index, not sliced: the exporter then knows that the result has the size of the crop.
        offsets = torch.arange(crop, device=image.device)
        pixels = pixels.index_select(2, offsets + top).index_select(3, offsets + left).round().clamp(0, 255)
        logits = self.model(normalize(pixels, self.preprocessing))
        return torch.softmax(logits / self.temperature, dim=1)


def _crop_start(length: int | torch.SymInt, crop: int) -> int | torch.SymInt:
    """Where a centre crop starts; halves are rounded to even, as torchvision's ``center_crop`` does."""
    half, odd = (length - crop) // 2, (length - crop) % 2
    return half + odd * (half % 2)


def export(checkpoint: Checkpoint, temperature: float, opset: int, metadata: dict[str, str]) -> OnnxModel:
    """Export a checkpoint as one ONNX file; ``metadata`` is added to what the checkpoint itself provides."""
    deployable = Deployable(_prepare_for_tracing(checkpoint.model()), checkpoint.preprocessing, temperature).eval()
    example = torch.zeros(2, checkpoint.preprocessing.resize_px + 3, checkpoint.preprocessing.resize_px + 9, 3)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), _errors_only("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            deployable, (example.to(torch.uint8),), dynamo=True, opset_version=opset, external_data=False,
            input_names=["image"], output_names=["probabilities"], dynamic_shapes=(axes,), verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    _strip_debug_info(model.graph)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)  # older runtimes refuse a newer one
    onnx.helper.set_model_props(model, _checkpoint_metadata(checkpoint, temperature) | metadata)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return OnnxModel(buffer.getvalue())


def _prepare_for_tracing(model: nn.Module) -> nn.Module:
    """An equivalent copy without batch norms and in-place operations, both of which are slow to trace."""
    model = fuse_conv_bn(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return model


def _strip_debug_info(graph: onnx.GraphProto) -> None:
    """Remove what the exporter notes beside each value: stack traces with paths of this machine, memory addresses."""
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")


def _checkpoint_metadata(checkpoint: Checkpoint, temperature: float) -> dict[str, str]:
    return {
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "architecture": checkpoint.architecture,
        "preprocessing": checkpoint.preprocessing.describe(),
        "input": "image: uint8 [batch, height, width, 3], upright RGB, any size",
        "output": "probabilities: float32 [batch, classes], calibrated",
        "temperature": repr(temperature),
        "weights_licence": checkpoint.weights_licence,
        "checkpoint_sha256": checkpoint.fingerprint,
    }


@contextmanager
def _errors_only(*names: str) -> Iterator[None]:
    """Raise the level of these loggers to ``ERROR`` inside."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
