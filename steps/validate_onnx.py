"""Compare the exported file with its source before anyone may use it."""

from typing import Annotated

from graft.checkpoint import Checkpoint
from graft.config import ExportConfig
from graft.data.splits import Split
from graft.onnx_model import OnnxCheck, OnnxModel, validate
from graft.recipe import parity_images
from graft.runtime.caching import cached_step


@cached_step()
def validate_onnx(
    split: Split,
    exported: OnnxModel,
    checkpoint: Checkpoint,
    temperature: float,
    export: ExportConfig,
) -> Annotated[OnnxCheck, "onnx_check"]:
    """Run ``onnx.checker`` in full, and ONNX Runtime against torch on held-out images."""
    paths = parity_images(split.folder(), split, export.parity_images)
    return validate(exported, checkpoint, temperature, paths, export)
