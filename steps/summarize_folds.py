"""What the folds say together."""

from typing import Annotated

from graft.cross_validation import CrossValidation, FoldResult, summarize
from graft.runtime.caching import cached_step


@cached_step()
def summarize_folds(
    results: list[FoldResult],
) -> tuple[Annotated[CrossValidation, "cross_validation"], Annotated[float, "temperature"]]:
    """Gather the folds and fit the temperature that calibrates the final model."""
    summary = summarize(results)
    return summary, summary.temperature
