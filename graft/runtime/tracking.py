"""What Graft writes into MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow
from matplotlib.figure import Figure
from zenml.config.base_settings import SettingsOrDict

from graft.compute.trial import in_words
from graft.learning.history import EpochMetrics, Phase
from graft.plan import TrainingPlan
from graft.reports.figures import as_image

# A run is incomplete until its last step says otherwise: MLflow calls a run finished whatever failed in it.
STATUS, INCOMPLETE, COMPLETE = "graft.status", "incomplete", "complete"
TRACKED: dict[str, SettingsOrDict] = {"experiment_tracker": {"tags": {STATUS: INCOMPLETE}}}
TRACKED_BELOW: dict[str, SettingsOrDict] = {"experiment_tracker": {"tags": {STATUS: INCOMPLETE}, "nested": True}}


def log_epoch(phase: Phase, epoch: int, metrics: EpochMetrics) -> None:
    """Log the metrics of one epoch into the active run."""
    mlflow.log_metrics(metrics.named(phase.name), step=epoch)


def log_missing_history(phase_name: str, history: list[EpochMetrics]) -> None:
    """Log the epochs of a phase where this run lacks them, because the step that trained was cached."""
    run = mlflow.active_run()
    assert run is not None
    if mlflow.MlflowClient().get_metric_history(run.info.run_id, f"{phase_name}/train_loss"):
        return
    for epoch, metrics in enumerate(history):
        mlflow.log_metrics(metrics.named(phase_name), step=epoch)


def log_plan(plan: TrainingPlan) -> None:
    """Log the table of stages, and the strategy as a tag to filter by."""
    mlflow.log_text(plan.in_words(), "stages.txt")
    mlflow.set_tag("graft.strategy", plan.decision.strategy)
    mlflow.set_tag("graft.compute", in_words(plan.compute))
    if plan.similarity is not None:
        mlflow.log_metric("data/similarity", plan.similarity)


def log_figures(figures: Mapping[str, Figure]) -> None:
    """Log figures as PNG under ``figures/``."""
    for name, figure in figures.items():
        mlflow.log_image(as_image(figure), artifact_file=f"figures/{name}.png")


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, as MLflow's parameters want them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
