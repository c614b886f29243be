"""The learning-rate finder: raise the learning rate step by step, and see where the loss is lowest (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np

from graft.compute.devices import oom_as_training_error
from graft.config.parameters import TrainingParameters
from graft.config.training import TrainLoopConfig
from graft.errors import ConfigError, TrainingError
from graft.features.loaders import Batch, TrainingImages
from graft.models.backbones import preprocessing_for
from graft.seeds import derive_seed, seeded
from graft.training.batch_sources import BatchSource, BatchSources
from graft.training.history import Phase
from graft.training.loop import TrainResult, compute_loss
from graft.training.losses import Criterion
from graft.training.plan import make_plan
from graft.training.recipe import new_head_model, planned_phases, run_phases, training_images
from graft.training.standalone import prepare_standalone
from graft.training.trainer import Trainer

MIN_LR, MAX_LR = 1e-6, 1.0
STEPS = 80
SMOOTHING = 0.9
SKIPPED_STEPS = 10  # at the start, where the smoothed loss is still noisy
DIVERGED = 4.0  # times the lowest loss: the search ends
MIN_DECREASE = 0.05  # of the loss, relative; with less, no learning rate can be suggested


@dataclass(frozen=True)
class LRFinderResult:
    """The smoothed loss in nats at each learning rate of the head, and the suggested learning rate."""

    learning_rates: list[float]
    losses: list[float]
    suggestion: float


def find_lr(parameters: TrainingParameters, phase: Literal["warm_up", "fine_tune"]) -> LRFinderResult:
    """Run the finder for a phase of a config, on its training images; an earlier phase is trained first."""
    training, seed = parameters.training, parameters.seed
    split, model = prepare_standalone(parameters)
    plan = make_plan(split, model, training, seed)
    training = plan.with_compute(training)
    phases = planned_phases(training, plan)
    if phase == "fine_tune" and len(phases) == 1:
        raise ConfigError(
            f"training.strategy is {training.strategy}, which has no fine-tuning phase here ({plan.reason}); "
            f"choose another strategy, or use --phase warm_up."
        )
    earlier, searched = ([], phases[0]) if phase == "warm_up" else (phases[:1], phases[-1])
    images = training_images(split, preprocessing_for(model.config))
    start, config = TrainResult(new_head_model(model, split.classes, seed)), training.train_config
    results = run_phases(start, earlier, config, images, seed=seed, on_epoch_end=lambda *_: None)
    return run_lr_finder([start, *results][-1], searched, config, images, seed)


def run_lr_finder(
    start: TrainResult, phase: Phase, train_config: TrainLoopConfig, images: TrainingImages, seed: int
) -> LRFinderResult:
    """Raise the head's learning rate from 1e-6 to 1, those of other stages in proportion, until the loss diverges.

    Every stage that the phase unfreezes is unfrozen from the start. ``start.model`` is not changed. Raises
    ``TrainingError`` if the loss never decreases.
    """
    seed = derive_seed(seed, "rate", phase.name)
    phase = replace(phase, learning_rate=1.0, unfreeze_epochs=(0,) * len(phase.unfreeze_epochs))
    sources = BatchSources(images, phase, train_config, seed)
    criterion = Criterion.from_config(train_config, images)
    trainer = Trainer(start.model, phase, train_config, sources.batches_per_epoch, seed)
    trainer.start_epoch(0)
    source = sources.prepare(trainer)
    learning_rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    with seeded(seed), oom_as_training_error(train_config.batch_size), trainer.compute.context():
        batches = _endless(source)
        for step in range(STEPS):
            lr = MIN_LR * (MAX_LR / MIN_LR) ** (step / (STEPS - 1))
            accumulated = islice(batches, train_config.optimizer.accumulation_steps)
            loss = trainer.step_at(
                lr, (compute_loss(trainer, criterion, source, inputs, labels) for inputs, labels, _ in accumulated)
            )
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smoothed = average / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(smoothed) or (losses and smoothed > DIVERGED * min(losses)):
                break
            learning_rates.append(lr)
            losses.append(smoothed)
    return LRFinderResult(learning_rates, losses, suggest(learning_rates, losses))


def suggest(learning_rates: list[float], losses: list[float]) -> float:
    """A tenth of the learning rate at which the loss is lowest, as fastai suggests; the first steps do not count.

    Raises ``TrainingError`` if the loss never decreases by 5 %.
    """
    smooth = losses[SKIPPED_STEPS:]
    if not smooth or min(smooth) > (1 - MIN_DECREASE) * smooth[0]:
        raise TrainingError(
            "the loss decreases at no learning rate, so none can be suggested: after warm-up there may be little "
            "left to learn; otherwise check labels, images and model.weights."
        )
    return learning_rates[SKIPPED_STEPS + int(np.argmin(smooth))] / 10


def _endless(source: BatchSource) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from source.epoch(epoch)
        epoch += 1
