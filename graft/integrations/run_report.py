"""Logs the results of a training run to MLflow, whether its steps ran or were cached."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
import numpy as np
from zenml import get_step_context
from zenml.client import Client
from zenml.models import StepRunResponse

from graft.data.manifest import Manifest
from graft.data.validation_report import ValidationReport
from graft.evaluation.metrics import Predictions
from graft.export.onnx_model import OnnxModel
from graft.export.parity import OnnxCheck
from graft.integrations.tracking import COMPLETE, FAILURE, STATUS, flatten, log_figures, log_missing_history, log_plan
from graft.promotion.registration import Registration
from graft.reports import figures, training_figures
from graft.reports.validation_page import validation_page
from graft.training.checkpoint import Checkpoint
from graft.training.cross_validation import CrossValidation
from graft.training.history import FINE_TUNE, with_validation
from graft.training.plan import TrainingPlan


@dataclass(frozen=True)
class RunArtifacts:
    """The artifacts of one run of the training pipeline."""

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


def headline_metrics(artifacts: RunArtifacts) -> dict[str, float]:
    """The headline metrics without the step times, by their names in MLflow."""
    return {
        "data/images": float(len(artifacts.manifest.table)),
        "data/quarantined": float(len(artifacts.validation.quarantine)),
        **artifacts.cross_validation.to_metrics(),
        **artifacts.holdout.to_metrics("holdout"),
        **artifacts.check.to_metrics(),
    }


def log_run_report(artifacts: RunArtifacts, parameters: str) -> None:
    """Log metrics, parameters, figures and tags to the active MLflow run; ``parameters`` is the config as JSON."""
    run = Client().get_pipeline_run(get_step_context().pipeline_run.id)
    steps = run.steps
    folds = artifacts.cross_validation
    warm = with_validation(artifacts.warm.history, folds.warm_up)
    tuned = with_validation(artifacts.tuned.history, folds.fine_tune) if artifacts.tuned.phase == FINE_TUNE else []
    log_missing_history("warmup", warm)
    log_missing_history("finetune", tuned)
    log_plan(artifacts.plan)
    mlflow.log_metrics(headline_metrics(artifacts) | step_times(steps))
    mlflow.log_params(flatten(json.loads(parameters)))
    log_figures(
        {
            "curves": training_figures.learning_curves(warm, tuned),
            "candidates": training_figures.candidates(folds),
            "folds": training_figures.folds(folds),
            "holdout_confusion": figures.confusion(artifacts.holdout),
            "holdout_reliability": figures.reliability(artifacts.holdout),
            "holdout_mistakes": figures.mistakes(artifacts.holdout, artifacts.manifest.folder()),
        }
    )
    mlflow.log_table(candidate_table(folds), "candidates.json")
    mlflow.log_text(validation_page(artifacts.validation), "validation.html")
    mlflow.log_dict(artifacts.validation.raw, "great_expectations.json")
    mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")  # opens as a table of runs
    if artifacts.tuned.failure:
        mlflow.set_tag(FAILURE, artifacts.tuned.failure)
    mlflow.set_tags(
        {
            STATUS: COMPLETE,
            "graft.model": artifacts.registration.uri,
            "graft.frozen_sha256": artifacts.tuned.frozen_digests[-1].sha256,
            "graft.reused_steps": ", ".join(cached_steps(steps)) or "none",
            "zenml.run_id": str(run.id),
            "zenml.run_name": run.name,
        }
    )


def candidate_table(folds: CrossValidation) -> dict[str, list[object]]:
    """The candidates as columns of a table."""
    rows = [
        {
            "candidate": score.name, "unfrozen_stages": score.unfrozen_stages, "epochs": score.epochs,
            "accuracy_mean": float(np.mean(score.accuracies)) if score.accuracies else None,
            "accuracy_std": float(np.std(score.accuracies, ddof=1)) if len(score.accuracies) > 1 else None,
            "log_loss": score.log_loss, "difference": score.difference and score.difference.mean,
            "standard_error": score.difference and score.difference.standard_error,
            "seconds": score.seconds, "outcome": score.outcome,
        }
        for score in folds.candidates
    ]  # fmt: skip
    return {name: [row[name] for row in rows] for name in rows[0]}


def step_times(steps: Mapping[str, StepRunResponse]) -> dict[str, float]:
    """Seconds that each step took; for a cached step, when it last ran."""
    times = {}
    for name, step in steps.items():
        original_id = step.original_step_run_id if step.status == "cached" else None  # the property costs a query
        original = Client().get_run_step(original_id) if original_id else step
        if original.start_time and original.end_time:
            times[f"time/{name}_s"] = (original.end_time - original.start_time).total_seconds()
    return times


def cached_steps(steps: Mapping[str, StepRunResponse]) -> list[str]:
    """The names of the steps whose results came from the cache."""
    return sorted(name for name, step in steps.items() if step.status == "cached")
