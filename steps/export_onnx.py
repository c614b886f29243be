"""Make one file of model, preprocessing and calibration."""

import json
from typing import Annotated

import mlflow
from zenml import get_step_context

from graft.checkpoint import Checkpoint
from graft.cross_validation import CrossValidation
from graft.data.manifest import Manifest
from graft.learning.metrics import Predictions
from graft.onnx_model import OnnxModel, export
from graft.runtime.caching import cached_step
from graft.runtime.tracking import TRACKED


@cached_step(experiment_tracker=True, settings=TRACKED)
def export_onnx(
    manifest: Manifest,
    checkpoint: Checkpoint,
    temperature: float,
    cross_validation: CrossValidation,
    holdout: Predictions,
    opset: int,
) -> Annotated[OnnxModel, "onnx_model"]:
    """Export the final model; the file says of itself what it is, where it comes from and how good it is."""
    metrics = cross_validation.named() | holdout.named("holdout")
    facts = {
        "data_fingerprint": manifest.fingerprint,
        "zenml_run_id": str(get_step_context().pipeline_run.id),
        "mlflow_run_id": run.info.run_id if (run := mlflow.active_run()) else "",
        "metrics": json.dumps(metrics),
    }
    return export(checkpoint, temperature, opset, facts)
