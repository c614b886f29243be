"""What a model said of images, and how right it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score

from graft.learning.calibration import probabilities

ECE_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """Logits of images with their true labels.

    ``logits`` is float32 ``[images, classes]``; ``labels`` int64 ``[images]``; ``paths`` names the images;
    ``temperature`` divides the logits before the softmax.
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
        """The likeliest class of each image, int64 ``[images]``."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def accuracy(self) -> float:
        """The share of images named right, 0..1."""
        return float(accuracy_score(self.labels, self.predicted))

    @property
    def macro_f1(self) -> float:
        """The mean over classes of F1, 0..1; a class that is never named counts 0."""
        return float(f1_score(self.labels, self.predicted, average="macro", zero_division=0.0))

    @property
    def auroc(self) -> float:
        """The mean over classes of the area under the curve of one class against the rest, 0..1.

        Classes without images, or without any of another class, do not count; with no class left it is 0.5.
        """
        present = [k for k in range(len(self.classes)) if 0 < (self.labels == k).sum() < len(self.labels)]
        areas = [roc_auc_score(self.labels == k, self.probabilities[:, k]) for k in present]
        return float(np.mean(areas)) if areas else 0.5

    @property
    def loss(self) -> float:
        """The mean cross-entropy of the labels in nats."""
        chosen = log_softmax(self.logits / self.temperature, axis=1)[np.arange(len(self.labels)), self.labels]
        return float(-chosen.mean())

    @property
    def ece(self) -> float:
        """Expected calibration error in 15 equal bins of confidence (Guo et al. 2017), 0..1."""
        confidence, right, count = self.reliability()
        return float((np.abs(confidence - right) * count).sum() / max(len(self.labels), 1))

    def named(self, group: str) -> dict[str, float]:
        """The headline metrics under their names in MLflow."""
        return {f"{group}/{name}": getattr(self, name) for name in ("accuracy", "macro_f1", "ece")}

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean confidence, share right and number of images in each bin of confidence, float64 ``[15]``."""
        confidence = self.probabilities.max(axis=1)
        right = self.predicted == self.labels
        bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
        count = np.bincount(bins, minlength=ECE_BINS).astype(float)
        safe = np.maximum(count, 1)
        mean_confidence = np.bincount(bins, weights=confidence, minlength=ECE_BINS) / safe
        return mean_confidence, np.bincount(bins, weights=right, minlength=ECE_BINS) / safe, count

    def confusion(self) -> np.ndarray:
        """Images of each true class (rows) by predicted class (columns), int64 ``[classes, classes]``."""
        return np.asarray(confusion_matrix(self.labels, self.predicted, labels=range(len(self.classes))))

    def mistakes(self) -> pd.DataFrame:
        """The images named wrong, surest first: ``path, label, predicted, confidence``."""
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


def joined(parts: list[Predictions]) -> Predictions:
    """The predictions of several sets of images as one."""
    return Predictions(
        [path for part in parts for path in part.paths],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.logits for part in parts]),
        parts[0].classes,
    )
