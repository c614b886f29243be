"""What stops training early, with a sentence, instead of an hour later with a bad model."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from graft.cache.files import cache_place, write_whole
from graft.errors import TrainingError, shown
from graft.learning.history import EpochMetrics, Phase
from graft.learning.metrics import Predictions

CHANCE = 0.6  # of the area under the curve, with some slack for few images
SAME = 1e-6  # of the largest feature: what differs less between images is the same
STANDARD_ERRORS = 3.0
DIVERGED = 10.0  # times the loss of a guess


def require_trainable(count: int, phase: Phase) -> None:
    """Raise ``TrainingError`` where no parameter would move."""
    if count == 0:
        raise TrainingError(
            f"nothing is trainable in {phase.name}; thaw stages in {phase.section}, or report this."
        )


def require_varied(features: Tensor, what: str) -> None:
    """Raise ``TrainingError`` where ``[batch, …]`` holds the same for every image, or what is no number."""
    flat = features.detach().float().flatten(1)
    if not flat.isfinite().all():
        raise TrainingError(f"{what} are not finite; look at model.weights, or lower the learning rate.")
    spread, size = (flat - flat[:1]).abs().max().item(), flat.abs().max().item()
    if len(flat) > 1 and spread <= SAME * size:
        raise TrainingError(
            f"{what} are the same for every image: activations have collapsed; look at the images, lower the "
            f"learning rate, or look at model.weights (under none, the depths of many networks see no contrast)."
        )


def not_finite(loss: float, phase: Phase, epoch: int, paths: list[str]) -> TrainingError:
    """The error that names the batch where the loss is not finite; its paths are kept in a file."""
    kept = cache_place("batches", *paths).with_suffix(".txt")
    first = ", ".join(map(shown, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    try:
        write_whole(kept, "\n".join(map(shown, paths)).encode())
        first += f" (all in {kept})"
    except OSError as error:
        first += f" (the list cannot be written to {kept}: {error.strerror})"
    return TrainingError(
        f"the loss is {loss} in epoch {epoch + 1} of {phase.name}, at a batch with {first}; lower "
        f"{phase.section}.learning_rate, or look at these images."
    )


def require_learned(said: Predictions, phase: Phase) -> None:
    """Raise ``TrainingError`` where a head says no more of the validation images than their classes' shares do.

    Of images of a single class, nothing can be said.
    """
    shares = np.bincount(said.labels, minlength=len(said.classes)) / len(said.labels)
    known = float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    if np.count_nonzero(shares) > 1 and said.auroc <= CHANCE and said.loss >= known:
        raise TrainingError(
            f"after {phase.name} the head is at chance (area under the curve {said.auroc:.2f} on "
            f"{len(said.labels)} validation images, {said.accuracy:.3f} of them named right); raise "
            f"{phase.section}.learning_rate or .epochs, or look whether the labels fit the images."
        )


def require_calm(said: Predictions, phase: Phase) -> None:
    """Raise ``TrainingError`` where a model is surer of what is wrong than one that converged can be."""
    guess = math.log(len(said.classes))
    if said.loss > DIVERGED * guess:
        raise TrainingError(
            f"after {phase.name} the loss on the validation images is {said.loss:.3g}, and that of a guess "
            f"{guess:.3g}: training diverged; lower {phase.section}.learning_rate (graft find-lr suggests one)."
        )


def require_remembered(before: EpochMetrics, now: EpochMetrics, images: int, classes: int) -> None:
    """Raise ``TrainingError`` where thawing lost more than half of what was known (catastrophic forgetting).

    That is, where accuracy fell by more than half the way to chance, and by more than three standard errors.
    """
    chance = 1 / classes
    was, has = before.val_accuracy, now.val_accuracy
    error = math.sqrt(max(was * (1 - was), 0.25 / images) / images)
    if has < chance + (was - chance) / 2 and was - has > STANDARD_ERRORS * error:
        stage, rate = list(now.learning_rates.items())[-1]
        raise TrainingError(
            f"accuracy on the validation images fell from {was:.3f} to {has:.3f} after {stage} had thawed: the "
            f"backbone forgets what it knew; lower training.fine_tune.learning_rate ({stage} learns at "
            f"{rate:.2g}) or .stage_decay."
        )
