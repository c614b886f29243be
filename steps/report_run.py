"""Log the results of the run to MLflow, including those of cached steps."""

from zenml import step

from graft.data.manifest import Manifest
from graft.data.validation_report import ValidationReport
from graft.evaluation.metrics import Predictions
from graft.export.onnx_model import OnnxModel
from graft.export.parity import OnnxCheck
from graft.integrations.run_report import RunArtifacts, log_run_report
from graft.integrations.tracking import TRACKED
from graft.promotion.registration import Registration
from graft.training.checkpoint import Checkpoint
from graft.training.cross_validation import CrossValidation
from graft.training.plan import TrainingPlan


@step(enable_cache=False, experiment_tracker=True, settings=TRACKED)
def report_run(
    manifest: Manifest,
    validation: ValidationReport,
    plan: TrainingPlan,
    warm: Checkpoint,
    tuned: Checkpoint,
    cross_validation: CrossValidation,
    holdout: Predictions,
    exported: OnnxModel,
    check: OnnxCheck,
    registration: Registration,
    parameters: str,
) -> None:
    """Log metrics, parameters, figures and tags; ``parameters`` is the config as JSON."""
    artifacts = RunArtifacts(
        manifest, validation, plan, warm, tuned, cross_validation, holdout, exported, check, registration
    )
    log_run_report(artifacts, parameters)
