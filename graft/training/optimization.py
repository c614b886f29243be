"""Optimizers with a parameter group for each stage, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from graft.config.training import OptimizerConfig
from graft.models.stages import named_stage_parameters

MIN_LR_FRACTION = 0.01  # of the head's learning rate: decayed over twenty stages, it would otherwise vanish


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _constant(progress: float) -> float:  # noqa: ARG001  the signature of a decay
    return 1.0


# By name: the fraction of the steps with linear warm-up, and the decay after it as a function of progress 0..1.
# one_cycle is cosine with a longer warm-up (Smith 2018); unlike Smith's, it leaves the momentum constant.
SCHEDULES: dict[str, tuple[float, Callable[[float], float]]] = {
    "cosine": (0.1, _cosine),
    "one_cycle": (0.3, _cosine),
    "constant": (0.1, _constant),
}


@dataclass(frozen=True)
class UnfrozenStage:
    """A trainable stage, and the step at which it was unfrozen."""

    stage: str
    step: int = 0


@dataclass(frozen=True)
class LRSchedule:
    """The schedule of a phase of ``steps`` steps; a stage unfrozen later ramps up over ``ramp`` steps of its own."""

    config: OptimizerConfig
    steps: int
    ramp: int = 1

    def factor(self, unfrozen: UnfrozenStage) -> Callable[[int], float]:
        """The function from a step to the factor 0..1 of a stage's peak learning rate."""

        def factor_at(step: int) -> float:
            ramp = 1.0 if unfrozen.step == 0 else min(1.0, (step - unfrozen.step + 1) / self.ramp)
            return ramp * schedule_factor(self.config.schedule, step, self.steps)

        return factor_at


def schedule_factor(schedule: str, step: int, steps: int) -> float:
    """The factor 0..1 of the peak learning rate at a step of a phase of ``steps`` steps.

    Raises ``KeyError`` for a schedule that is not in ``SCHEDULES``.
    """
    warm_up_fraction, decay = SCHEDULES[schedule]
    warm_up = max(1, round(steps * warm_up_fraction))
    if step < warm_up:
        return (step + 1) / warm_up
    return decay(min(1.0, (step - warm_up) / max(1, steps - warm_up)))


def layer_lrs(trainable: list[str], learning_rate: float, layer_decay: float) -> dict[str, float]:
    """The peak learning rate of each trainable stage, the head's first; never below a hundredth of the head's."""
    return {
        stage: learning_rate * max(layer_decay**distance, MIN_LR_FRACTION)
        for distance, stage in enumerate(reversed(trainable))
    }


def make_optimizer(
    model: nn.Module, lrs: dict[str, float], config: OptimizerConfig, previous: Optimizer | None = None
) -> Optimizer:
    """An optimizer over the trainable parameters of the stages in ``lrs``, each at its peak learning rate.

    Parameters that ``previous`` trained keep its state, such as their moments. Norms and biases have no weight decay.
    """
    groups = [group for stage, lr in lrs.items() for group in _groups(model, stage, lr, config.weight_decay)]
    fused = next(model.parameters()).device.type == "cpu"  # there, torch's default updates one parameter at a time
    optimizer: Optimizer
    if config.name == "sgd":
        optimizer = SGD(groups, lr=0.0, momentum=config.momentum, nesterov=True, fused=fused)
    else:
        optimizer = AdamW(groups, lr=0.0, betas=(config.momentum, 0.999), fused=fused)
    if previous is not None:
        trainable = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        optimizer.state.update({
            parameter: state for parameter, state in previous.state.items() if parameter in trainable
        })  # fmt: skip
    return optimizer


def make_scheduler(optimizer: Optimizer, schedule: LRSchedule, unfrozen: list[UnfrozenStage], step: int) -> LambdaLR:
    """A scheduler that continues from ``step``."""
    by_stage = {stage.stage: stage for stage in unfrozen}
    factors = [schedule.factor(by_stage[group["name"]]) for group in optimizer.param_groups]
    return LambdaLR(optimizer, factors, last_epoch=step - 1)


def _groups(model: nn.Module, stage: str, lr: float, weight_decay: float) -> Iterator[dict[str, object]]:
    """The parameter groups of a stage: matrices and filters, which decay, and norms and biases, which do not."""
    parameters = [value for _, value in named_stage_parameters(model, stage) if value.requires_grad]
    for decays in (True, False):
        params = [value for value in parameters if (value.ndim > 1) == decays]
        if params:
            decay = weight_decay if decays else 0.0
            yield {"params": params, "lr": lr, "initial_lr": lr, "weight_decay": decay, "name": stage}
