"""Which weight moves how fast: parameter groups, optimizers that outlive a thaw, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from graft.networks.backbones import named_stage_parameters
from graft.training_config import OptimizerConfig

RISE = {"cosine": 0.1, "one_cycle": 0.3, "constant": 0.1}  # the share of all steps in which the rate climbs
LOWEST_SHARE = 0.01  # of the head's rate: after twenty stages, each slower by a factor, nothing would be left


@dataclass(frozen=True)
class Thawed:
    """A trainable stage, and the step at which it thawed."""

    stage: str
    step: int = 0


@dataclass(frozen=True)
class Pace:
    """How the rate runs over a phase of ``steps`` steps; a stage that thaws later climbs over ``ramp`` steps."""

    config: OptimizerConfig
    steps: int
    ramp: int = 1

    def factor(self, thawed: Thawed) -> Callable[[int], float]:
        """A stage's factor of its own learning rate at each step, 0..1."""

        def at(step: int) -> float:
            climbed = 1.0 if thawed.step == 0 else min(1.0, (step - thawed.step + 1) / self.ramp)
            return climbed * schedule_factor(self.config.schedule, step, self.steps)

        return at


def schedule_factor(schedule: str, step: int, steps: int) -> float:
    """A factor 0..1 that climbs a line, and then stays or falls along a cosine to nearly nothing.

    ``one_cycle`` climbs longer (Smith 2018), and its momentum stays.
    """
    rising = max(1, round(steps * RISE[schedule]))
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))


def stage_rates(trainable: list[str], learning_rate: float, stage_decay: float) -> dict[str, float]:
    """The peak learning rate of each trainable stage, the head's first; never below a hundredth of the head's."""
    return {
        stage: learning_rate * max(stage_decay**distance, LOWEST_SHARE)
        for distance, stage in enumerate(reversed(trainable))
    }


def make_optimizer(
    model: nn.Module, rates: dict[str, float], config: OptimizerConfig, former: Optimizer | None = None
) -> Optimizer:
    """An optimizer over the trainable parameters of these stages, each at its rate.

    What the former one knew of parameters that stay is kept. Norms and biases (of one dimension) do not decay.
    """
    groups = [group for stage, rate in rates.items() for group in _groups(model, stage, rate, config.weight_decay)]
    on_cpu = next(model.parameters()).device.type == "cpu"  # where torch else updates one weight after another
    optimizer: Optimizer
    if config.name == "sgd":
        optimizer = SGD(groups, lr=0.0, momentum=config.momentum, nesterov=True, fused=on_cpu)
    else:
        optimizer = AdamW(groups, lr=0.0, betas=(config.momentum, 0.999), fused=on_cpu)
    if former is not None:
        stay = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        optimizer.state.update({one: state for one, state in former.state.items() if one in stay})
    return optimizer


def make_scheduler(optimizer: Optimizer, pace: Pace, thawed: list[Thawed], step: int) -> LambdaLR:
    """A scheduler that stands at ``step``."""
    since = {one.stage: one for one in thawed}
    factors = [pace.factor(since[group["name"]]) for group in optimizer.param_groups]
    return LambdaLR(optimizer, factors, last_epoch=step - 1)


def _groups(model: nn.Module, stage: str, rate: float, weight_decay: float) -> Iterator[dict[str, object]]:
    parameters = [value for _, value in named_stage_parameters(model, stage) if value.requires_grad]
    for decays in (True, False):
        part = [value for value in parameters if (value.ndim > 1) == decays]
        if part:
            decay = weight_decay if decays else 0.0
            yield {"params": part, "lr": rate, "initial_lr": rate, "weight_decay": decay, "name": stage}
