"""Checks that stop a failing training early, with an error that says what to change."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from graft.cache.files import cache_path, write_atomically
from graft.errors import PhaseError, TrainingError, printable
from graft.evaluation.metrics import Predictions
from graft.places import describe_write_error
from graft.training.history import EpochMetrics, Phase

CHANCE_AUROC = 0.6  # chance is 0.5; the rest allows for few validation images
COLLAPSE_TOLERANCE = 1e-6  # features that differ by less, relative to the largest, count as identical
MIN_STANDARD_ERRORS = 3.0
DIVERGENCE_FACTOR = 10.0  # times the loss of guessing uniformly


def check_epoch(
    phase: Phase,
    epoch: int,
    predictions: Predictions | None,
    metrics: EpochMetrics,
    before: EpochMetrics | None,
    classes: int,
) -> None:
    """Raise ``TrainingError`` if training should not continue after an epoch (counted from 0).

    ``predictions`` are those on the validation images, if there are any. ``before`` holds the metrics of the model that
    the phase started from, if it was trained before.
    """
    if predictions is None:
        if epoch + 1 == phase.last_epoch:
            check_diverged(metrics.train_loss, "training", classes, phase)
        return
    check_collapsed(torch.from_numpy(predictions.logits), "the model's outputs")
    if epoch + 1 < phase.last_epoch:  # a drop at the peak learning rate is often temporary
        return
    if before is not None:
        check_forgetting(before, metrics, len(predictions.labels), classes)
    elif not phase.unfreeze_epochs:
        check_above_chance(predictions, phase)
    check_diverged(predictions.loss, "validation", classes, phase)


def check_trainable(count: int, phase: Phase) -> None:
    """Raise ``TrainingError`` if no parameter is trainable."""
    if count == 0:
        raise TrainingError(
            f"nothing is trainable in {phase.name}; unfreeze stages in {phase.config_section}, or report this."
        )


def check_collapsed(features: Tensor, name: str) -> None:
    """Raise ``PhaseError`` if ``[batch, ...]`` is the same for every image, or not finite."""
    flat = features.detach().float().flatten(1)
    if not flat.isfinite().all():
        raise PhaseError(f"{name} are not finite; check model.weights, or lower the learning rate.")
    spread, largest = (flat - flat[:1]).abs().max().item(), flat.abs().max().item()
    if len(flat) > 1 and spread <= COLLAPSE_TOLERANCE * largest:
        raise PhaseError(
            f"{name} are the same for every image: activations have collapsed; check the images and model.weights "
            f"(with weights none, many deep networks collapse), or lower the learning rate."
        )


def non_finite_loss_error(loss: float, phase: Phase, epoch: int, paths: list[str]) -> PhaseError:
    """The error for a batch whose loss is not finite; writes the paths of its images to a file in the cache."""
    list_path = cache_path("batches", *paths).with_suffix(".txt")
    batch = ", ".join(map(printable, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    try:
        write_atomically(list_path, "\n".join(map(printable, paths)).encode())
        batch += f" (all in {list_path})"
    except OSError as error:
        batch += f" ({describe_write_error(error, list_path)})"
    return PhaseError(
        f"the loss is {loss} in epoch {epoch + 1} of {phase.name}, in a batch with {batch}; lower "
        f"{phase.config_section}.learning_rate, or check these images."
    )


def check_above_chance(predictions: Predictions, phase: Phase) -> None:
    """Raise ``TrainingError`` if predictions are no better than the class frequencies of the validation images.

    Never raises for images of a single class.
    """
    frequencies = np.bincount(predictions.labels, minlength=len(predictions.classes)) / len(predictions.labels)
    present = frequencies[frequencies > 0]
    entropy = float(-(present * np.log(present)).sum())  # the loss of predicting the frequencies for every image
    if len(present) > 1 and predictions.auroc <= CHANCE_AUROC and predictions.loss >= entropy:
        raise TrainingError(
            f"after {phase.name} the head is at chance (AUROC {predictions.auroc:.2f}, accuracy "
            f"{predictions.accuracy:.3f} on {len(predictions.labels)} validation images); raise "
            f"{phase.config_section}.learning_rate or .epochs, or check that the labels fit the images."
        )


def check_diverged(loss: float, part: str, classes: int, phase: Phase) -> None:
    """Raise ``PhaseError`` if the loss is far above that of guessing: wrong predictions of high confidence."""
    guessing = math.log(classes)
    if loss > DIVERGENCE_FACTOR * guessing:
        raise PhaseError(
            f"after {phase.name} the loss on the {part} images is {loss:.3g}, and that of guessing "
            f"{guessing:.3g}: training diverged; lower {phase.config_section}.learning_rate (graft find-lr suggests "
            f"one)."
        )


def check_forgetting(before: EpochMetrics, after: EpochMetrics, images: int, classes: int) -> None:
    """Raise ``PhaseError`` on catastrophic forgetting.

    That is if validation accuracy fell by more than half of its distance to chance, and by more than three
    standard errors.
    """
    chance = 1 / classes
    old, new = before.val_accuracy, after.val_accuracy
    if old is None or new is None:  # there are no validation images
        return
    standard_error = math.sqrt(max(old * (1 - old), 0.25 / images) / images)
    if new < chance + (old - chance) / 2 and old - new > MIN_STANDARD_ERRORS * standard_error:
        stage, lr = list(after.learning_rates.items())[-1]
        raise PhaseError(
            f"accuracy on the validation images fell from {old:.3f} to {new:.3f} after {stage} was unfrozen: the "
            f"backbone forgets its pretraining; set training.batch_norm to all_frozen, lower "
            f"training.fine_tune.learning_rate ({stage} trains at {lr:.2g}), or lower .layer_decay."
        )
