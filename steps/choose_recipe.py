"""Choose the recipe of the final model by the results of the folds."""

from typing import Annotated

from zenml.logger import get_logger

from graft.config.training import TrainingConfig
from graft.integrations.step_caching import cached_step
from graft.training import selection
from graft.training.folds import FoldResult
from graft.training.plan import TrainingPlan

logger = get_logger(__name__)


@cached_step()
def choose_recipe(
    results: list[FoldResult], plan: TrainingPlan, training: TrainingConfig
) -> Annotated[TrainingPlan, "recipe"]:
    """Keep the plan, or drop its fine-tuning if ``auto`` proposed it and the folds do not support it."""
    chosen = selection.choose_recipe(results, plan, training)
    logger.info(chosen.summary)
    return chosen
