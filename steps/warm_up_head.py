"""Train a new head on the frozen backbone."""

from typing import Annotated

from graft.checkpoint import Checkpoint
from graft.data.splits import Split
from graft.networks.weights import PinnedModel
from graft.plan import TrainingPlan
from graft.recipe import warm_up as warm_up_recipe
from graft.runtime.caching import cached_step
from graft.runtime.tracking import TRACKED, log_epoch
from graft.training_config import LoopConfig, WarmUpConfig


@cached_step(experiment_tracker=True, settings=TRACKED)
def warm_up_head(
    split: Split, model: PinnedModel, loop: LoopConfig, warm_up: WarmUpConfig, plan: TrainingPlan, seed: int
) -> Annotated[Checkpoint, "warm_checkpoint"]:
    """Warm the head up."""
    return warm_up_recipe(split.folder(), split, model, (plan.settled(loop), warm_up), seed, log_epoch)
