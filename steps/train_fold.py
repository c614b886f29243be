"""Train on all folds but one, and test on that one."""

from typing import Annotated

import mlflow

from graft.config.training import TrainingConfig
from graft.data.splits import Folds
from graft.integrations.step_caching import cached_step
from graft.integrations.tracking import COMPLETE, FAILURE, STATUS, TRACKED_NESTED, log_epoch
from graft.models.weights import FingerprintedModel
from graft.training.folds import FoldResult, cross_validate_fold
from graft.training.plan import TrainingPlan


@cached_step(experiment_tracker=True, settings=TRACKED_NESTED)
def train_fold(
    folds: Folds, fold: int, model: FingerprintedModel, training: TrainingConfig, plan: TrainingPlan, seed: int
) -> Annotated[FoldResult, "fold_result"]:
    """Train and test in an MLflow run nested in the pipeline's."""
    result = cross_validate_fold(folds, fold, model.config, training, plan, seed=seed, on_epoch_end=log_epoch)
    mlflow.log_metrics(result.to_metrics())
    if result.failure:
        mlflow.set_tag(FAILURE, result.failure)
    mlflow.set_tag(STATUS, COMPLETE)
    return result
