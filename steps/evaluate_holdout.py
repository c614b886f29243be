"""Judge the final model on images that no model trained on."""

from typing import Annotated

from graft.checkpoint import Checkpoint
from graft.data.splits import Split
from graft.learning.metrics import Predictions
from graft.plan import TrainingPlan
from graft.recipe import judge_holdout
from graft.runtime.caching import cached_step


@cached_step()
def evaluate_holdout(
    split: Split, checkpoint: Checkpoint, temperature: float, plan: TrainingPlan
) -> Annotated[Predictions, "holdout_predictions"]:
    """Judge on the holdout, once, with calibrated probabilities."""
    return judge_holdout(split.folder(), split, checkpoint, temperature, plan.compute)
