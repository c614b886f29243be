"""Export the final model with its preprocessing and calibration as one ONNX file."""

import json
from typing import Annotated

import mlflow
from zenml import get_step_context

from graft.data.manifest import Manifest
from graft.evaluation.metrics import Predictions
from graft.export.onnx_model import OnnxModel, export
from graft.integrations.step_caching import cached_step
from graft.integrations.tracking import TRACKED
from graft.training.checkpoint import Checkpoint
from graft.training.cross_validation import CrossValidation


@cached_step(experiment_tracker=True, settings=TRACKED)
def export_onnx(
    manifest: Manifest,
    checkpoint: Checkpoint,
    temperature: float,
    cross_validation: CrossValidation,
    holdout: Predictions,
    opset: int,
) -> Annotated[OnnxModel, "onnx_model"]:
    """Export the final model; the file's metadata names its data, its runs and its metrics."""
    metrics = cross_validation.to_metrics() | holdout.to_metrics("holdout")
    metadata = {
        "data_fingerprint": manifest.fingerprint,
        "zenml_run_id": str(get_step_context().pipeline_run.id),
        "mlflow_run_id": run.info.run_id if (run := mlflow.active_run()) else "",
        "metrics": json.dumps(metrics),
    }
    return export(checkpoint, temperature, opset, metadata)
