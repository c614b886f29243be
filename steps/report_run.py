"""Leave every headline in MLflow, whatever was cached."""

from zenml import step

from graft.checkpoint import Checkpoint
from graft.cross_validation import CrossValidation
from graft.data.manifest import Manifest
from graft.data.validation_report import ValidationReport
from graft.learning.metrics import Predictions
from graft.onnx_model import OnnxCheck, OnnxModel
from graft.plan import TrainingPlan
from graft.registration import Registration
from graft.runtime.headline import Evidence, log_headline
from graft.runtime.tracking import TRACKED


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
    evidence = Evidence(
        manifest, validation, plan, warm, tuned, cross_validation, holdout, exported, check, registration
    )
    log_headline(evidence, parameters)
