"""Choose compute settings and strategy before training."""

from typing import Annotated

from zenml.logger import get_logger

from graft.config.training import TrainingConfig
from graft.data.splits import Split
from graft.integrations.step_caching import cached_step
from graft.integrations.tracking import TRACKED, log_plan
from graft.models.weights import FingerprintedModel
from graft.training.plan import TrainingPlan, make_plan
from graft.training.recipe import precompute_features

logger = get_logger(__name__)


@cached_step(experiment_tracker=True, settings=TRACKED)
def plan_training(
    split: Split, model: FingerprintedModel, training: TrainingConfig, seed: int
) -> Annotated[TrainingPlan, "training_plan"]:
    """Choose strategy and compute settings, log the plan, and fill the feature cache."""
    plan = make_plan(split, model, training, seed)
    logger.info(plan.describe())
    log_plan(plan)
    precompute_features(split, model, training, plan)
    return plan
