"""Compare the exported model with torch before it is registered."""

from typing import Annotated

from graft.config.parameters import ExportConfig
from graft.data.splits import Split
from graft.export.onnx_model import OnnxModel
from graft.export.parity import OnnxCheck, compare_with_torch
from graft.integrations.step_caching import cached_step
from graft.training.checkpoint import Checkpoint
from graft.training.recipe import parity_images


@cached_step()
def validate_onnx(
    split: Split,
    exported: OnnxModel,
    checkpoint: Checkpoint,
    temperature: float,
    export: ExportConfig,
) -> Annotated[OnnxCheck, "onnx_check"]:
    """Run ``onnx.checker``, and compare ONNX Runtime with torch on holdout images."""
    paths = parity_images(split, export.parity_images)
    return compare_with_torch(exported, checkpoint, temperature, paths, export)
