"""Fine-tune the head and the stages of the backbone that the plan unfreezes."""

from typing import Annotated

from graft.config.training import TrainLoopConfig
from graft.data.splits import Split
from graft.integrations.step_caching import cached_step
from graft.integrations.tracking import TRACKED, log_epoch
from graft.training import recipe
from graft.training.checkpoint import Checkpoint
from graft.training.plan import TrainingPlan


@cached_step(experiment_tracker=True, settings=TRACKED)
def fine_tune(
    split: Split,
    warm: Checkpoint,
    train_config: TrainLoopConfig,
    plan: TrainingPlan,
    seed: int,
) -> Annotated[Checkpoint, "checkpoint"]:
    """Fine-tune the checkpoint of the head warm-up; returns it unchanged if the plan unfreezes nothing."""
    return recipe.fine_tune(
        split, warm, train_config=plan.with_compute(train_config), plan=plan, seed=seed, on_epoch_end=log_epoch
    )
