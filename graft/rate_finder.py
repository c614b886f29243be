"""Which learning rate to take: raise it step by step, and look where the loss is lowest (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np

from graft.compute.devices import enough_memory
from graft.config import TrainingParameters
from graft.errors import ConfigError, TrainingError
from graft.inputs.datasets import Batch, Images
from graft.learning.history import Phase
from graft.learning.learner import Learner
from graft.learning.supply import Inputs, Supply
from graft.networks.backbones import build, preprocessing
from graft.plan import fine_tuning, make_plan
from graft.recipe import images_of, prepare, warm_up
from graft.seeds import derive_seed, seeded
from graft.training import Task, Trained
from graft.training_config import LoopConfig

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 80
SMOOTHING = 0.9
SETTLING = 10  # steps until the average of losses says something
DIVERGED = 4.0  # times the lowest loss
LEAST_FALL = 0.05


@dataclass(frozen=True)
class RateCurve:
    """The smoothed loss in nats at each learning rate of the head, and the rate to begin with."""

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_rate(start: Trained, phase: Phase, loop: LoopConfig, images: Images, seed: int) -> RateCurve:
    """Raise the head's rate from 1e-6 to 1, other stages in proportion, until the loss runs away.

    All stages that the phase ever thaws are thawed from the start. The given model is left as it was. Raises
    ``TrainingError`` where the loss never falls.
    """
    seed = derive_seed(seed, "rate", phase.name)
    phase = replace(phase, learning_rate=1.0, thaw_epochs=(0,) * len(phase.thaw_epochs))
    task, supply = Task.of(images, phase, loop), Supply(images, phase, loop, seed)
    learner = Learner(start.model, phase, loop, supply.batches_per_epoch, seed)
    learner.begin(0)
    inputs = supply.at(learner)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    with seeded(seed), enough_memory(loop.batch_size), learner.compute.running():
        every = _endless(inputs)
        for step in range(STEPS):
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
            gathered = islice(every, loop.optimizer.accumulation_steps)
            loss = learner.learn_at(rate, (task.loss(inputs, given, labels) for given, labels, _ in gathered))
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smoothed = average / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(smoothed) or (losses and smoothed > DIVERGED * min(losses)):
                break
            rates.append(rate)
            losses.append(smoothed)
    return RateCurve(rates, losses, suggest(rates, losses))


def find_rate_for(parameters: TrainingParameters, phase: Literal["warm_up", "fine_tune"]) -> RateCurve:
    """The curve for a phase of a config, on its training images; for fine-tuning, the head is warmed up first."""
    training, seed = parameters.training, parameters.seed
    split, model = prepare(parameters)
    plan = make_plan(split.folder(), split, model, training, seed)
    training = plan.settled(training)
    if phase == "warm_up":
        fresh = Trained(build(model.config, len(split.classes), derive_seed(seed, "head")))
        images = images_of(split.folder(), split, preprocessing(model.config))
        return find_rate(fresh, Phase.warm_up(training.warm_up), training.loop, images, seed)
    if not plan.decision.thaw_epochs:
        raise ConfigError(
            f"training.strategy is {training.strategy}, under which nothing thaws ({plan.decision.reason}); take "
            f"another strategy, or look for the rate of warm_up."
        )
    warm = warm_up(split.folder(), split, model, (training.loop, training.warm_up), seed, lambda *_: None)
    images = images_of(split.folder(), split, warm.preprocessing)
    fine = fine_tuning(training.fine_tune, plan.decision)
    curve = find_rate(Trained(warm.model()), fine, training.loop, images, seed)
    factor = plan.decision.rate_factor  # by which training will multiply what the config says
    return RateCurve([rate / factor for rate in curve.rates], curve.losses, curve.suggestion / factor)


def suggest(rates: list[float], losses: list[float]) -> float:
    """A tenth of the rate at which the loss is lowest, as fastai suggests; the first steps, still noisy, apart.

    Raises ``TrainingError`` where the loss hardly falls at any rate.
    """
    settled = losses[SETTLING:]
    if not settled or min(settled) > (1 - LEAST_FALL) * settled[0]:
        raise TrainingError(
            "the loss falls at no learning rate, so none can be suggested: after warm-up there may be little left "
            "to learn, else look at labels, images and model.weights."
        )
    return rates[SETTLING + int(np.argmin(settled))] / 10


def _endless(inputs: Inputs) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from inputs.epoch(epoch)
        epoch += 1
