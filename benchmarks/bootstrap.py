"""Bootstrap intervals for the difference in accuracy of two trainers on the same holdout."""

from __future__ import annotations

import numpy as np

REPLICATES = 10_000


def difference_replicates(first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Bootstrap replicates of the mean of ``first`` minus that of ``second``, float64 ``[REPLICATES]``.

    ``first`` is bool ``[seeds, images]``, whether each image is classified correctly by the model of each seed;
    ``second`` is that of the other trainer, with the same images in the same order, but seeds of its own. Images are
    resampled once for both, seeds for each alone: the pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122), whose
    intervals are rather too wide than too narrow. With one seed, they do not contain the variation between seeds.
    """
    images = first.shape[1]
    image_weights = _resampled_weights(images, generator)
    first_mean, second_mean = (_resampled_mean(correct, image_weights, generator) for correct in (first, second))
    return np.asarray(first_mean - second_mean)


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the replicates."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def _resampled_mean(correct: np.ndarray, image_weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    accuracies = image_weights @ correct.T.astype(np.float64)  # [replicates, seeds]
    return np.asarray((accuracies * _resampled_weights(len(correct), generator)).sum(axis=1))


def _resampled_weights(count: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of ``count`` things is drawn if so many are drawn with replacement, as fractions."""
    return generator.multinomial(count, np.full(count, 1 / count), REPLICATES) / count
