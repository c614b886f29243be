"""Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits ``[images, classes]``, in float64."""
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, 0.05 to 20, that maximises the likelihood of labels int64 ``[images]``.

    Fit it on images that the model did not train on. A weak prior toward 1 (standard normal on its logarithm) keeps
    it from the lower bound when every image is classified correctly.
    """
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits * np.exp(-log_temperature), axis=1)
        return float(log_temperature**2 / 2 - scaled[np.arange(len(labels)), labels].sum())

    result = minimize_scalar(loss, bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)), method="bounded")
    return float(np.exp(result.x))
