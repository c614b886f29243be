"""The results of the latest training run as text."""

from __future__ import annotations

from zenml.client import Client
from zenml.utils.io_utils import get_global_config_directory

import materializers  # noqa: F401
from graft.errors import RegistryError
from graft.evaluation.metrics import Predictions
from graft.integrations.stack import check_folder_name
from graft.promotion.registration import Registration
from graft.training.cross_validation import CrossValidation
from graft.training.plan import TrainingPlan

PIPELINE = "training_pipeline"


def summary() -> str:
    """A few lines on the latest completed training run; raises ``RegistryError`` if there is none."""
    check_folder_name(get_global_config_directory())
    runs = Client().list_pipeline_runs(pipeline=PIPELINE, status="completed", sort_by="desc:created", size=1).items
    if not runs:
        raise RegistryError("no training run has finished yet; run `make demo` or `graft run CONFIG`.")
    steps = runs[0].steps
    plan: TrainingPlan = steps["choose_recipe"].outputs["recipe"][0].load()
    cross_validation: CrossValidation = steps["choose_recipe"].outputs["cross_validation"][0].load()
    holdout: Predictions = steps["evaluate_holdout"].outputs["holdout_predictions"][0].load()
    model = steps["export_onnx"].outputs["onnx_model"][0].uri
    registration: Registration = steps["register_model"].outputs["registration"][0].load()
    cv, estimate = cross_validation.to_metrics(), cross_validation.accuracy
    accuracies = "  ".join(f"{accuracy:.3f}" for accuracy in cross_validation.accuracies)
    return "\n".join(
        [
            "",
            f"  Recipe     {plan.recipe.name}: {plan.reason}",
            f"  Folds      {accuracies}",
            f"             {cv['cv/accuracy_mean']:.3f} ± {cv['cv/accuracy_std']:.3f} "
            f"(head only {cv['cv/accuracy_head_only_mean']:.3f}); on new images {estimate.mean:.3f}, "
            f"95 % interval {estimate.low:.3f} to {estimate.high:.3f}",
            f"  Holdout    {holdout.accuracy:.3f} accuracy, {holdout.macro_f1:.3f} macro-F1, "
            f"{holdout.ece:.3f} calibration error, {len(holdout.labels)} images",
            f"  Model      {model}/model.onnx",
            f"  Registry   {registration.uri}, alias challenger",
            "  MLflow     make ui",
            "",
        ]
    )
