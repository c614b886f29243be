"""Logging to the active MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow
from matplotlib.figure import Figure
from zenml.config.base_settings import SettingsOrDict

from graft.compute.autotune import describe
from graft.reports.figures import as_image
from graft.training.history import EpochMetrics, Phase
from graft.training.plan import TrainingPlan

# Set to COMPLETE by the last step: MLflow marks a run as finished even if a step failed.
FAILURE = "graft.fine_tune_failure"  # why fine-tuning was abandoned
STATUS, INCOMPLETE, COMPLETE = "graft.status", "incomplete", "complete"
TRACKED: dict[str, SettingsOrDict] = {"experiment_tracker": {"tags": {STATUS: INCOMPLETE}}}
TRACKED_NESTED: dict[str, SettingsOrDict] = {"experiment_tracker": {"tags": {STATUS: INCOMPLETE}, "nested": True}}


def log_epoch(phase: Phase, epoch: int, metrics: EpochMetrics) -> None:
    """Log the metrics of one epoch."""
    mlflow.log_metrics(metrics.to_metrics(phase.metrics_prefix), step=epoch)


def log_missing_history(phase_name: str, history: list[EpochMetrics]) -> None:
    """Log the metrics of a phase that this run lacks: validation metrics, and all of a training that was cached."""
    run = mlflow.active_run()
    assert run is not None
    logged = mlflow.MlflowClient().get_run(run.info.run_id).data.metrics
    for epoch, metrics in enumerate(history):
        missing = {name: value for name, value in metrics.to_metrics(phase_name).items() if name not in logged}
        mlflow.log_metrics(missing, step=epoch)


def log_plan(plan: TrainingPlan) -> None:
    """Log the table of stages, and strategy and compute settings as tags."""
    mlflow.log_text(plan.describe(), "stages.txt")
    mlflow.set_tag("graft.strategy", plan.recipe.strategy)
    mlflow.set_tag("graft.compute", describe(plan.compute))
    if plan.similarity is not None:
        mlflow.log_metric("data/similarity", plan.similarity)


def log_figures(figures: Mapping[str, Figure]) -> None:
    """Log figures as PNG under ``figures/``."""
    for name, figure in figures.items():
        mlflow.log_image(as_image(figure), artifact_file=f"figures/{name}.png")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names, which MLflow's parameters need."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
