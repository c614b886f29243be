"""Train a new head on the frozen backbone."""

from typing import Annotated

from graft.config.training import TrainLoopConfig, WarmUpConfig
from graft.data.splits import Split
from graft.integrations.step_caching import cached_step
from graft.integrations.tracking import TRACKED, log_epoch
from graft.models.weights import FingerprintedModel
from graft.training import recipe
from graft.training.checkpoint import Checkpoint
from graft.training.plan import TrainingPlan


@cached_step(experiment_tracker=True, settings=TRACKED)
def warm_up_head(
    split: Split,
    model: FingerprintedModel,
    train_config: TrainLoopConfig,
    warm_up: WarmUpConfig,
    plan: TrainingPlan,
    seed: int,
) -> Annotated[Checkpoint, "warm_checkpoint"]:
    """Train the head with the compute settings of the plan."""
    config = plan.with_compute(train_config)
    return recipe.warm_up_head(split, model, train_config=config, warm_up=warm_up, seed=seed, on_epoch_end=log_epoch)
