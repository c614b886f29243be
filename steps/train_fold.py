"""The whole recipe on one fold."""

from typing import Annotated

import mlflow

from graft.cross_validation import FoldResult, train_and_test
from graft.data.splits import Folds
from graft.networks.weights import PinnedModel
from graft.plan import TrainingPlan
from graft.runtime.caching import cached_step
from graft.runtime.tracking import COMPLETE, STATUS, TRACKED_BELOW, log_epoch
from graft.training_config import TrainingConfig


@cached_step(experiment_tracker=True, settings=TRACKED_BELOW)
def train_fold(
    folds: Folds, fold: int, model: PinnedModel, training: TrainingConfig, plan: TrainingPlan, seed: int
) -> Annotated[FoldResult, "fold_result"]:
    """Warm up and fine-tune without this fold, then judge on it; an MLflow run of its own, below the parent."""
    result = train_and_test(folds, fold, folds.folder(), (model.config, training, plan), seed, log_epoch)
    mlflow.log_metrics(result.named())
    mlflow.set_tag(STATUS, COMPLETE)
    return result
