"""Summarize the folds of the cross-validation."""

from typing import Annotated

from graft.integrations.step_caching import cached_step
from graft.training.folds import CrossValidation, FoldResult, summarize
from graft.training.plan import TrainingPlan


@cached_step()
def summarize_folds(
    results: list[FoldResult], plan: TrainingPlan
) -> tuple[Annotated[CrossValidation, "cross_validation"], Annotated[float, "temperature"]]:
    """Combine the folds' results for the chosen recipe, and fit the temperature that calibrates the final model."""
    summary = summarize(results, plan)
    return summary, summary.temperature
