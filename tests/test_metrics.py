"""Metrics and calibration."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from graft.evaluation import metrics
from graft.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, probabilities
from graft.evaluation.metrics import Predictions, concatenate_predictions

LOGITS = np.array([[4.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 2.0]], dtype=np.float32)
PREDICTIONS = Predictions(["w", "x", "y", "z"], np.array([0, 1, 1, 1]), LOGITS, ["cat", "dog"])


def test_metrics_of_four_images() -> None:
    assert PREDICTIONS.accuracy == 0.75
    assert PREDICTIONS.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert PREDICTIONS.confusion().tolist() == [[1, 0], [1, 2]]
    assert PREDICTIONS.to_metrics("holdout").keys() == {"holdout/accuracy", "holdout/macro_f1", "holdout/ece"}


def test_mistakes_are_listed_most_confident_first() -> None:
    table = PREDICTIONS.mistakes()
    assert table[["path", "label", "predicted"]].to_numpy().tolist() == [["y", "dog", "cat"]]
    assert table["confidence"][0] == pytest.approx(1 / (1 + np.exp(-3)))


def test_confusion_includes_classes_without_images() -> None:
    predictions = Predictions(["x"], np.array([0]), np.array([[1.0, 0.0, 0.0]]), ["a", "b", "c"])
    assert predictions.confusion().shape == (3, 3)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_auroc_is_the_mean_of_those_of_single_classes(images: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.integers(0, 3, (images, classes)).astype(np.float32)  # so few values that many are equal
    predictions = Predictions([""] * images, labels, logits, [str(number) for number in range(classes)])
    areas = [
        roc_auc_score(labels == number, predictions.probabilities[:, number])
        for number in range(classes)
        if 0 < (labels == number).sum() < images
    ]
    assert predictions.auroc == pytest.approx(np.mean(areas) if areas else 0.5, abs=1e-12)


def test_auroc_computes_the_softmax_once(monkeypatch: pytest.MonkeyPatch) -> None:
    softmax = Mock(side_effect=probabilities)
    monkeypatch.setattr(metrics, "probabilities", softmax)
    assert draw_predictions(1.0, 100).auroc > 0.5
    softmax.assert_called_once()


def draw_predictions(temperature: float, images: int = 4000) -> Predictions:
    """Predictions whose labels are drawn from their own probabilities at a temperature."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (images, 5)).astype(np.float32)
    cumulative = probabilities(logits / temperature).cumsum(axis=1)
    labels = (generator.random((images, 1)) > cumulative).sum(axis=1)
    return Predictions([str(i) for i in range(images)], labels, logits, list("abcde"))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_recovers_the_temperature_and_calibrates(temperature: float) -> None:
    predictions = draw_predictions(temperature)
    fitted = fit_temperature(predictions.logits, predictions.labels)
    assert fitted == pytest.approx(temperature, rel=0.1)
    calibrated = Predictions(predictions.paths, predictions.labels, predictions.logits, predictions.classes, fitted)
    assert calibrated.ece < 0.03
    assert calibrated.ece <= predictions.ece + 0.01
    assert calibrated.accuracy == predictions.accuracy


@given(st.integers(1, 20), st.floats(-1e4, 1e4))
def test_fit_temperature_stays_in_bounds_if_every_image_is_correct(images: int, scale: float) -> None:
    logits = np.tile(np.array([[scale, 0.0]]), (images, 1))
    labels = logits.argmax(axis=1)
    assert MIN_TEMPERATURE <= fit_temperature(logits, labels) <= MAX_TEMPERATURE


def test_ece_is_the_gap_between_confidence_and_accuracy() -> None:
    logits = np.log(np.array([[0.9, 0.1]] * 10))
    predictions = Predictions(list("abcdefghij"), np.array([0] * 6 + [1] * 4), logits, ["x", "y"])
    assert predictions.ece == pytest.approx(0.3)


def test_concatenate_predictions_keeps_every_image() -> None:
    both = concatenate_predictions([PREDICTIONS, PREDICTIONS])
    assert both.paths == PREDICTIONS.paths * 2
    assert both.accuracy == PREDICTIONS.accuracy
