"""Train the last stages of the backbone with the head."""

from typing import Annotated

from graft.checkpoint import Checkpoint
from graft.data.splits import Split
from graft.plan import TrainingPlan
from graft.recipe import fine_tune as fine_tune_recipe
from graft.runtime.caching import cached_step
from graft.runtime.tracking import TRACKED, log_epoch
from graft.training_config import FineTuneConfig, LoopConfig


@cached_step(experiment_tracker=True, settings=TRACKED)
def fine_tune(
    split: Split, warm: Checkpoint, loop: LoopConfig, config: FineTuneConfig, plan: TrainingPlan, seed: int
) -> Annotated[Checkpoint, "checkpoint"]:
    """Fine-tune what warm-up made, as the plan says."""
    return fine_tune_recipe(split.folder(), split, warm, (plan.settled(loop), config, plan), seed, log_epoch)
