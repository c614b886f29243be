"""Predictions on labelled images, and their metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from graft.evaluation.calibration import probabilities

ECE_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """Logits and true labels of images.

    ``logits`` is float32 ``[images, classes]``, ``labels`` int64 ``[images]``; ``temperature`` divides the logits
    before the softmax.
    """

    paths: list[str]
    labels: np.ndarray
    logits: np.ndarray
    classes: list[str]
    temperature: float = 1.0

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated probabilities, float64 ``[images, classes]``."""
        return probabilities(self.logits / self.temperature)

    @property
    def predicted(self) -> np.ndarray:
        """The most likely class of each image, int64 ``[images]``."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def accuracy(self) -> float:
        """The fraction of images classified correctly, 0..1."""
        return float(accuracy_score(self.labels, self.predicted))

    @property
    def macro_f1(self) -> float:
        """The mean F1 over classes, 0..1; that of a class that is never predicted is 0."""
        return float(f1_score(self.labels, self.predicted, average="macro", zero_division=0.0))

    @property
    def auroc(self) -> float:
        """The mean over classes of the one-vs-rest area under the ROC curve, 0..1.

        It is undefined for a class without images or without images of other classes: such classes do not count, and
        if none counts, the result is 0.5. Computed from ranks, as the Mann-Whitney U statistic.
        """
        positives = np.bincount(self.labels, minlength=len(self.classes))
        negatives = len(self.labels) - positives
        defined = np.flatnonzero((positives > 0) & (negatives > 0))
        if not len(defined):
            return 0.5
        columns = self.probabilities.T
        rank_sums = np.array([rankdata(columns[k])[self.labels == k].sum() for k in defined])
        positives, negatives = positives[defined], negatives[defined]
        return float(np.mean((rank_sums - positives * (positives + 1) / 2) / (positives * negatives)))

    @property
    def image_losses(self) -> np.ndarray:
        """The cross-entropy of each image, ``[images]``, in nats."""
        log_probs = log_softmax(self.logits / self.temperature, axis=1)
        return np.asarray(-log_probs[np.arange(len(self.labels)), self.labels])

    @property
    def loss(self) -> float:
        """The mean cross-entropy in nats."""
        return float(self.image_losses.mean())

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 equal bins of confidence (Guo et al. 2017), 0..1."""
        confidence, accuracy, count = self.reliability()
        return float((np.abs(confidence - accuracy) * count).sum() / max(len(self.labels), 1))

    def to_metrics(self, group: str) -> dict[str, float]:
        """Accuracy, macro-F1 and calibration error by their names in MLflow."""
        return {f"{group}/{name}": getattr(self, name) for name in ("accuracy", "macro_f1", "ece")}

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean confidence, accuracy and number of images in each bin of confidence, float64 ``[15]`` each."""
        confidence = self.probabilities.max(axis=1)
        correct = self.predicted == self.labels
        bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
        count = np.bincount(bins, minlength=ECE_BINS).astype(float)
        divisor = np.maximum(count, 1)  # empty bins are 0
        mean_confidence = np.bincount(bins, weights=confidence, minlength=ECE_BINS) / divisor
        return mean_confidence, np.bincount(bins, weights=correct, minlength=ECE_BINS) / divisor, count

    def confusion(self) -> np.ndarray:
        """Image counts by true class (rows) and predicted class (columns), int64 ``[classes, classes]``."""
        return np.asarray(confusion_matrix(self.labels, self.predicted, labels=range(len(self.classes))))

    def mistakes(self) -> pd.DataFrame:
        """Misclassified images, most confident first: ``path, label, predicted, confidence``."""
        table = pd.DataFrame(
            {
                "path": self.paths,
                "label": [self.classes[i] for i in self.labels],
                "predicted": [self.classes[i] for i in self.predicted],
                "confidence": self.probabilities.max(axis=1),
            }
        )
        wrong = table[table["label"] != table["predicted"]]
        return wrong.sort_values(["confidence", "path"], ascending=[False, True], ignore_index=True)


def concatenate_predictions(parts: list[Predictions]) -> Predictions:
    """The predictions on several sets of images as one, at temperature 1."""
    return Predictions(
        [path for part in parts for path in part.paths],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.logits for part in parts]),
        parts[0].classes,
    )
