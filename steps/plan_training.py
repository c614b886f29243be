"""Settle what will be trained before anything is."""

from typing import Annotated

from zenml.logger import get_logger

from graft.data.splits import Split
from graft.networks.weights import PinnedModel
from graft.plan import TrainingPlan, make_plan
from graft.recipe import keep_frozen
from graft.runtime.caching import cached_step
from graft.runtime.tracking import TRACKED, log_plan
from graft.training_config import TrainingConfig

logger = get_logger(__name__)


@cached_step(experiment_tracker=True, settings=TRACKED)
def plan_training(
    split: Split, model: PinnedModel, training: TrainingConfig, seed: int
) -> Annotated[TrainingPlan, "training_plan"]:
    """Choose the strategy, show what it means for each stage, and compute what will stay frozen."""
    plan = make_plan(split.folder(), split, model, training, seed)
    logger.info(plan.in_words())
    log_plan(plan)
    keep_frozen(split.folder(), split, model, training, plan)
    return plan
