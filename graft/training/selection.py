"""Chooses among candidates by their predictions on test images of the folds, and corrects the estimate for the choice.

An option is a candidate trained for a number of epochs. Options are compared image by image, by the log loss of their
out-of-fold predictions, each calibrated by a temperature of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from graft.evaluation.calibration import fit_temperature
from graft.evaluation.metrics import Predictions, concatenate_predictions
from graft.training.folds import FoldResult
from graft.training.strategy import Candidate

RESAMPLES = 1000
MAX_WEIGHTS = 10_000_000  # of the bootstrap samples in memory at a time


@dataclass(frozen=True)
class Option:
    """A candidate trained for a number of epochs, and its calibrated out-of-fold predictions."""

    candidate: Candidate
    epochs: int
    predictions: Predictions


@dataclass(frozen=True)
class Difference:
    """How much higher one mean log loss is than another on the same images, and its standard error, in nats."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.standard_error:.3f} nats"

    @property
    def is_significant(self) -> bool:
        """Whether it exceeds one standard error."""
        return self.mean > self.standard_error


def paired_difference(option: Option, baseline: Option) -> Difference:
    """The log loss of an option minus that of a baseline, over the same images."""
    differences = option.predictions.image_losses - baseline.predictions.image_losses
    return Difference(float(differences.mean()), float(differences.std() / math.sqrt(len(differences))))


def collect_options(results: list[FoldResult], candidates: list[Candidate]) -> list[Option]:
    """The options that every fold tested, in the order of preference.

    Candidates of lower cost come first, and for each the whole schedule before its parts, at whose end the learning
    rate is still high.
    """
    results = sorted(results, key=lambda result: result.fold)
    options = []
    for candidate in candidates:
        for epochs in tested_epochs(results, candidate.name)[::-1]:
            parts = [result.predictions(candidate.name, epochs) for result in results]
            joined = concatenate_predictions([part for part in parts if part])
            temperature = fit_temperature(joined.logits, joined.labels)
            options.append(Option(candidate, epochs, replace(joined, temperature=temperature)))
    return options


def tested_epochs(results: list[FoldResult], name: str) -> list[int]:
    """The numbers of epochs for which every fold has predictions of a candidate, ascending."""
    logits = [candidate.logits for result in results for candidate in result.candidates if candidate.name == name]
    return sorted(set.intersection(*map(set, logits))) if len(logits) == len(results) else []


def best_option(options: list[Option]) -> Option:
    """The option of the lowest log loss."""
    return min(options, key=lambda option: option.predictions.loss)


def choose_option(options: list[Option]) -> Option:
    """The choice of ``choose`` on all images; ``options`` are in the order of preference."""
    losses = image_losses(options)
    return options[int(choose(losses, np.ones((1, len(losses))))[0])]


def image_losses(options: list[Option]) -> np.ndarray:
    """The log loss of each image, float64 ``[images, options]``, in nats."""
    return np.asarray(np.stack([option.predictions.image_losses for option in options], axis=1))


def choose(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The first option that is not worse than the best by more than one standard error of the paired difference.

    The one-standard-error rule of Breiman et al. (1984). ``losses`` is ``[images, options]``; ``weights`` ``[samples,
    images]`` says how often each sample holds each image. Returns the index of an option for each sample, int64
    ``[samples]``.
    """
    count = weights.sum(axis=1)
    means = weights @ losses / count[:, None]
    best = means.argmin(axis=1)
    chosen = best.copy()
    for winner in np.unique(best):
        samples = np.flatnonzero(best == winner)
        differences = means[samples] - means[samples, winner, None]
        squares = weights[samples] @ (losses - losses[:, winner, None]) ** 2 / count[samples, None]
        standard_errors = np.sqrt(np.maximum(squares - differences**2, 0) / count[samples, None])
        chosen[samples] = (differences <= standard_errors).argmax(axis=1)
    return np.asarray(chosen)


@dataclass(frozen=True)
class AccuracyEstimate:
    """An estimated accuracy and its 95 % interval, 0..1."""

    mean: float
    low: float
    high: float


def corrected_accuracy(options: list[Option], resamples: int = RESAMPLES) -> AccuracyEstimate:
    """The accuracy of the chosen option, corrected for the choice: that of the best of several is biased upward.

    Bootstrap bias corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018): each of 1,000 bootstrap
    samples of the images chooses an option, which is scored on the images that the sample lacks. The interval is
    Wilson's for the mean of these scores.
    """
    losses = image_losses(options)
    correct = np.stack([each.predictions.predicted == each.predictions.labels for each in options], axis=1).astype(
        float
    )
    generator, images = np.random.default_rng(0), len(losses)
    scores = np.empty(resamples)
    chunk = max(1, MAX_WEIGHTS // images)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=count).astype(float)
        chosen = choose(losses, weights)
        left_out = (weights == 0).astype(float)
        accuracies = left_out @ correct / left_out.sum(axis=1, keepdims=True)
        scores[start : start + count] = accuracies[np.arange(count), chosen]
    return wilson_interval(float(scores.mean()), images)


def wilson_interval(accuracy: float, images: int) -> AccuracyEstimate:
    """Wilson's 95 % interval of an accuracy that was measured on a number of images."""
    interval = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return AccuracyEstimate(accuracy, float(interval.low), float(interval.high))
