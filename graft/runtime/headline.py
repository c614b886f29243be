"""What every invocation leaves in MLflow, whether its steps ran or were cached."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
from zenml import get_step_context
from zenml.client import Client
from zenml.models import StepRunResponse

from graft.checkpoint import Checkpoint
from graft.cross_validation import CrossValidation
from graft.data.manifest import Manifest
from graft.data.validation_report import ValidationReport
from graft.learning.metrics import Predictions
from graft.onnx_model import OnnxCheck, OnnxModel
from graft.plan import TrainingPlan
from graft.registration import Registration
from graft.reports import figures
from graft.reports.validation_page import validation_page
from graft.runtime.tracking import (
    COMPLETE,
    STATUS,
    flattened,
    log_figures,
    log_missing_history,
    log_plan,
)


@dataclass(frozen=True)
class Evidence:
    """The artifacts of one invocation of the training pipeline."""

    manifest: Manifest
    validation: ValidationReport
    plan: TrainingPlan
    warm: Checkpoint
    tuned: Checkpoint
    cross_validation: CrossValidation
    holdout: Predictions
    exported: OnnxModel
    check: OnnxCheck
    registration: Registration


def headline(evidence: Evidence) -> dict[str, float]:
    """Every headline metric but the times."""
    return {
        "data/images": float(len(evidence.manifest.table)),
        "data/quarantined": float(len(evidence.validation.quarantine)),
        **evidence.cross_validation.named(),
        **evidence.holdout.named("holdout"),
        **evidence.check.named(),
    }


def log_headline(evidence: Evidence, parameters: str) -> None:
    """Log metrics, parameters, figures and tags into the active MLflow run."""
    run = Client().get_pipeline_run(get_step_context().pipeline_run.id)
    steps = run.steps
    tuned = evidence.tuned.history if evidence.tuned.stage == "fine_tune" else []
    log_missing_history("warmup", evidence.warm.history)
    log_missing_history("finetune", tuned)
    log_plan(evidence.plan)
    mlflow.log_metrics(headline(evidence) | step_times(steps))
    mlflow.log_params(flattened(json.loads(parameters)))
    log_figures(
        {
            "curves": figures.learning_curves(evidence.warm.history, tuned),
            "folds": figures.folds(evidence.cross_validation),
            "holdout_confusion": figures.confusion(evidence.holdout),
            "holdout_reliability": figures.reliability(evidence.holdout),
            "holdout_mistakes": figures.mistakes(evidence.holdout, evidence.manifest.folder()),
        }
    )
    mlflow.log_text(validation_page(evidence.validation), "validation.html")
    mlflow.log_dict(evidence.validation.raw, "great_expectations.json")
    mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")  # opens as a table of runs
    mlflow.set_tags(
        {
            STATUS: COMPLETE,
            "graft.model": evidence.registration.uri,
            "graft.frozen_sha256": evidence.tuned.proofs[-1].sha256,
            "graft.reused_steps": ", ".join(reused(steps)) or "none",
            "zenml.run_id": str(run.id),
            "zenml.run_name": run.name,
        }
    )


def step_times(steps: Mapping[str, StepRunResponse]) -> dict[str, float]:
    """How long each step took, in seconds; for a cached step, when it last ran."""
    times = {}
    for name, step in steps.items():
        origin = step.original_step_run_id if step.status == "cached" else None  # to ask costs a query
        ran = Client().get_run_step(origin) if origin else step
        if ran.start_time and ran.end_time:
            times[f"time/{name}_s"] = (ran.end_time - ran.start_time).total_seconds()
    return times


def reused(steps: Mapping[str, StepRunResponse]) -> list[str]:
    """The steps whose results came from the cache."""
    return sorted(name for name, step in steps.items() if step.status == "cached")
