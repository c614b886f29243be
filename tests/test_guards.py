"""What would end in a bad model ends in a sentence instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graft.errors import TrainingError
from graft.learning.guards import (
    require_calm,
    require_learned,
    require_remembered,
    require_trainable,
    require_varied,
)
from graft.learning.history import EpochMetrics, Phase
from graft.learning.metrics import Predictions
from graft.networks.transforms import Preprocessing, normalise, require_normalised

SHAPE = Preprocessing(48, 48)
WARM, FINE = Phase("warmup", 2, 0.01), Phase("finetune", 2, 0.01, thaw_epochs=(0,))
PIXELS = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)


def accuracy(value: float) -> EpochMetrics:
    return EpochMetrics(1.0, 1.0, value, value, value, {"head": 1e-3, "features.12": 1e-4})


def said(logits: np.ndarray, labels: list[int]) -> Predictions:
    classes = [str(k) for k in range(logits.shape[1])]
    return Predictions([str(n) for n in range(len(labels))], np.array(labels), logits.astype(np.float32), classes)


def test_nothing_trainable() -> None:
    require_trainable(1, FINE)
    with pytest.raises(TrainingError, match=r"nothing is trainable in finetune; thaw stages in training"):
        require_trainable(0, FINE)


def test_images_outside_the_normalised_range() -> None:
    require_normalised(normalise(PIXELS, SHAPE), SHAPE)
    with pytest.raises(TrainingError, match="before normalising, not from 0 to 1"):
        require_normalised(PIXELS.float(), SHAPE)
    with pytest.raises(TrainingError, match="run from nan to nan"):
        require_normalised(torch.full((1, 3, 2, 2), float("nan")), SHAPE)


def test_collapsed_activations() -> None:
    require_varied(torch.tensor([[1.0, 2.0], [1.0, 2.1]]), "the features")
    require_varied(torch.tensor([[1.0, 2.0]]), "the features")  # of one image, nothing can be said
    with pytest.raises(TrainingError, match="the features are the same for every image"):
        require_varied(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), "the features")
    with pytest.raises(TrainingError, match="the features are not finite"):
        require_varied(torch.tensor([[1.0], [float("inf")]]), "the features")


def test_a_head_at_chance() -> None:
    labels = [0, 1] * 10
    require_learned(said(np.eye(2)[labels], labels), WARM)
    with pytest.raises(TrainingError, match=r"the head is at chance .area under the curve 0.50 on 20"):
        require_learned(said(np.tile([0.1, 0.0], (20, 1)), labels), WARM)


def test_a_diverged_head_although_it_ranks_well() -> None:
    labels = [0, 1] * 10
    require_calm(said(np.eye(2)[labels], labels), WARM)
    logits = np.eye(2)[labels] * 1e6
    logits[0] = logits[0][::-1]  # one image wrong, and as sure as all others
    with pytest.raises(TrainingError, match=r"is 5e\+04, and that of a guess 0.693: training diverged; lower tr"):
        require_calm(said(logits, labels), WARM)


def test_validation_images_of_one_class_say_nothing_of_a_head() -> None:
    require_learned(said(np.array([[3.0, 0.0]]), [0]), WARM)


def test_a_head_that_ranks_well_has_learned_though_one_class_is_rare() -> None:
    labels = [0] * 19 + [1]
    logits = np.array(
        [[0.0, 0.1]] * 18 + [[0.0, 2.0]] * 2
    )  # nearly all are named 1, and the one is among the surest
    require_learned(said(logits, labels), WARM)


def test_forgetting_says_which_rate_to_lower() -> None:
    require_remembered(accuracy(0.9), accuracy(0.8), images=100, classes=2)
    require_remembered(accuracy(0.9), accuracy(0.6), images=4, classes=2)  # of four images, that is luck
    with pytest.raises(TrainingError, match=r"from 0\.900 to 0\.600 after features\.12 had.*learns at 0\.0001"):
        require_remembered(accuracy(0.9), accuracy(0.6), images=100, classes=2)
