"""Evaluate the final model on the holdout, which was never used for training."""

from typing import Annotated

from graft.data.splits import Split
from graft.evaluation.metrics import Predictions
from graft.integrations.step_caching import cached_step
from graft.training import recipe
from graft.training.checkpoint import Checkpoint
from graft.training.plan import TrainingPlan


@cached_step()
def evaluate_holdout(
    split: Split, checkpoint: Checkpoint, temperature: float, plan: TrainingPlan
) -> Annotated[Predictions, "holdout_predictions"]:
    """Predict the holdout images, with calibrated probabilities."""
    return recipe.evaluate_holdout(split, checkpoint, temperature=temperature, compute=plan.compute)
