"""Summarize the folds of the cross-validation."""

from typing import Annotated

from graft.integrations.step_caching import cached_step
from graft.training.folds import CrossValidation, FoldResult, summarize


@cached_step()
def summarize_folds(
    results: list[FoldResult],
) -> tuple[Annotated[CrossValidation, "cross_validation"], Annotated[float, "temperature"]]:
    """Combine the results of all folds, and fit the temperature that calibrates the final model."""
    summary = summarize(results)
    return summary, summary.temperature
