"""Train on all folds but one, and test on that one."""

from typing import Annotated

import mlflow

from graft.config.training import TrainingConfig
from graft.data.splits import Folds
from graft.integrations.step_caching import cached_step
from graft.integrations.tracking import COMPLETE, FAILURE, STATUS, TRACKED_NESTED, log_epoch, log_missing_history
from graft.models.weights import FingerprintedModel
from graft.training.cross_validation import drop_candidates
from graft.training.folds import FoldResult, cross_validate_fold
from graft.training.history import FINE_TUNE
from graft.training.plan import TrainingPlan


@cached_step(experiment_tracker=True, settings=TRACKED_NESTED)
def train_fold(
    folds: Folds,
    fold: int,
    model: FingerprintedModel,
    training: TrainingConfig,
    plan: TrainingPlan,
    seed: int,
    first: FoldResult | None = None,
) -> Annotated[FoldResult, "fold_result"]:
    """Train and test the plan's candidates in an MLflow run nested in the pipeline's.

    With the result of the ``first`` fold, candidates that it shows to be behind are left out.
    """
    if first:
        plan = drop_candidates(plan, first)
    result = cross_validate_fold(folds, fold, model.config, training, plan, seed=seed, on_epoch_end=log_epoch)
    mlflow.log_metrics(result.to_metrics())
    log_missing_history(FINE_TUNE, result.fine_tuning_history)
    if failures := [f"{each.name}: {each.failure}" for each in result.candidates if each.failure]:
        mlflow.set_tag(FAILURE, "; ".join(failures))
    mlflow.set_tag(STATUS, COMPLETE)
    return result
