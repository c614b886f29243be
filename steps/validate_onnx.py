"""Compare the exported file with its source before anyone may use it."""

from typing import Annotated

from graft.checkpoint import Checkpoint
from graft.config import ExportConfig
from graft.data.splits import Split
from graft.onnx_model import OnnxCheck, OnnxModel, validate
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
    drawn = split.rows("holdout").sort_values("sha256")["path"]  # of all classes, not the first of the alphabet
    folder = split.folder()
    paths = [folder / path for path in drawn[: export.parity_images]]
    return validate(exported, checkpoint, temperature, paths, export)
