"""Guards: each failing training ends in an error that says what to change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graft.errors import TrainingError
from graft.evaluation.metrics import Predictions
from graft.models.transforms import Preprocessing, check_normalized, normalize
from graft.training.guards import (
    check_above_chance,
    check_collapsed,
    check_diverged,
    check_forgetting,
    check_trainable,
)
from graft.training.history import EpochMetrics, Phase

PREPROCESSING = Preprocessing(48, 48)
WARM, FINE = Phase("warmup", 2, 0.01), Phase("finetune", 2, 0.01, unfreeze_epochs=(0,))
PIXELS = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)


def accuracy(value: float) -> EpochMetrics:
    return EpochMetrics(1.0, 1.0, value, value, value, {"head": 1e-3, "features.12": 1e-4})


def predictions(logits: np.ndarray, labels: list[int]) -> Predictions:
    classes = [str(k) for k in range(logits.shape[1])]
    return Predictions([str(n) for n in range(len(labels))], np.array(labels), logits.astype(np.float32), classes)


def test_check_trainable_raises_if_nothing_is_trainable() -> None:
    check_trainable(1, FINE)
    with pytest.raises(TrainingError, match=r"nothing is trainable in finetune; unfreeze stages in training"):
        check_trainable(0, FINE)


def test_check_normalised_raises_for_pixels_out_of_range() -> None:
    check_normalized(normalize(PIXELS, PREPROCESSING), PREPROCESSING)
    with pytest.raises(TrainingError, match="before normalising, not from 0 to 1"):
        check_normalized(PIXELS.float(), PREPROCESSING)
    with pytest.raises(TrainingError, match="run from nan to nan"):
        check_normalized(torch.full((1, 3, 2, 2), float("nan")), PREPROCESSING)


def test_check_collapsed_raises_if_features_are_constant_or_not_finite() -> None:
    check_collapsed(torch.tensor([[1.0, 2.0], [1.0, 2.1]]), "the features")
    check_collapsed(torch.tensor([[1.0, 2.0]]), "the features")  # a single image cannot be compared
    with pytest.raises(TrainingError, match="the features are the same for every image"):
        check_collapsed(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), "the features")
    with pytest.raises(TrainingError, match="the features are not finite"):
        check_collapsed(torch.tensor([[1.0], [float("inf")]]), "the features")


def test_check_above_chance_raises_for_a_head_at_chance() -> None:
    labels = [0, 1] * 10
    check_above_chance(predictions(np.eye(2)[labels], labels), WARM)
    with pytest.raises(TrainingError, match=r"the head is at chance .AUROC 0.50, accuracy 0.500 on 20 validation"):
        check_above_chance(predictions(np.tile([0.1, 0.0], (20, 1)), labels), WARM)


def test_check_diverged_raises_for_a_head_that_ranks_well_but_is_confidently_wrong() -> None:
    labels = [0, 1] * 10
    check_diverged(predictions(np.eye(2)[labels], labels).loss, "validation", 2, WARM)
    logits = np.eye(2)[labels] * 1e6
    logits[0] = logits[0][::-1]  # one image is wrong, with the confidence of all others
    with pytest.raises(TrainingError, match=r"is 5e\+04, and that of guessing 0.693: training diverged; lower tr"):
        check_diverged(predictions(logits, labels).loss, "validation", 2, WARM)


def test_check_above_chance_accepts_validation_images_of_one_class() -> None:
    check_above_chance(predictions(np.array([[3.0, 0.0]]), [0]), WARM)


def test_check_above_chance_accepts_a_head_that_ranks_well_despite_a_rare_class() -> None:
    labels = [0] * 19 + [1]
    # Nearly all images are classified as 1, and the true one is among the most confident.
    logits = np.array([[0.0, 0.1]] * 18 + [[0.0, 2.0]] * 2)
    check_above_chance(predictions(logits, labels), WARM)


def test_check_forgetting_names_the_learning_rate_to_lower() -> None:
    check_forgetting(accuracy(0.9), accuracy(0.8), images=100, classes=2)
    check_forgetting(accuracy(0.9), accuracy(0.6), images=4, classes=2)  # within the error of four images
    with pytest.raises(TrainingError, match=r"from 0\.900 to 0\.600 after features\.12 was unf.*trains at 0\.0001"):
        check_forgetting(accuracy(0.9), accuracy(0.6), images=100, classes=2)
