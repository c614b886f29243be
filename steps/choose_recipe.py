"""Choose the recipe of the final model by the results of the folds."""

from typing import Annotated

from zenml.logger import get_logger

from graft.integrations.step_caching import cached_step
from graft.training import cross_validation
from graft.training.cross_validation import CrossValidation
from graft.training.folds import FoldResult
from graft.training.plan import TrainingPlan

logger = get_logger(__name__)


@cached_step()
def choose_recipe(
    results: list[FoldResult], plan: TrainingPlan
) -> tuple[
    Annotated[TrainingPlan, "recipe"], Annotated[CrossValidation, "cross_validation"], Annotated[float, "temperature"]
]:
    """Choose among the candidates and their numbers of epochs; fit the temperature that calibrates the final model."""
    recipe, summary = cross_validation.choose_recipe(results, plan)
    logger.info(recipe.summary)
    return recipe, summary, summary.temperature
