"""Metrics and calibration, held against what they mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.learning.calibration import HIGHEST, LOWEST, fit_temperature, probabilities
from graft.learning.metrics import Predictions, joined

LOGITS = np.array([[4.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 2.0]], dtype=np.float32)
SAID = Predictions(["w", "x", "y", "z"], np.array([0, 1, 1, 1]), LOGITS, ["cat", "dog"])


def test_the_headline() -> None:
    assert SAID.accuracy == 0.75
    assert SAID.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert SAID.confusion().tolist() == [[1, 0], [1, 2]]
    assert SAID.named("holdout").keys() == {"holdout/accuracy", "holdout/macro_f1", "holdout/ece"}


def test_mistakes_are_listed_surest_first() -> None:
    table = SAID.mistakes()
    assert table[["path", "label", "predicted"]].to_numpy().tolist() == [["y", "dog", "cat"]]
    assert table["confidence"][0] == pytest.approx(1 / (1 + np.exp(-3)))


def test_a_class_without_images_counts_in_the_confusion() -> None:
    said = Predictions(["x"], np.array([0]), np.array([[1.0, 0.0, 0.0]]), ["a", "b", "c"])
    assert said.confusion().shape == (3, 3)


def drawn(temperature: float, images: int = 4000) -> Predictions:
    """Predictions whose labels are drawn from their own probabilities at a temperature."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (images, 5)).astype(np.float32)
    shares = probabilities(logits / temperature).cumsum(axis=1)
    labels = (generator.random((images, 1)) > shares).sum(axis=1)
    return Predictions([str(i) for i in range(images)], labels, logits, list("abcde"))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_calibrates(temperature: float) -> None:
    said = drawn(temperature)
    fitted = fit_temperature(said.logits, said.labels)
    assert fitted == pytest.approx(temperature, rel=0.1)
    calibrated = Predictions(said.paths, said.labels, said.logits, said.classes, fitted)
    assert calibrated.ece < 0.03
    assert calibrated.ece <= said.ece + 0.01
    assert calibrated.accuracy == said.accuracy


@given(st.integers(1, 20), st.floats(-1e4, 1e4))
def test_the_temperature_stays_in_bounds_where_all_is_right(images: int, scale: float) -> None:
    logits = np.tile(np.array([[scale, 0.0]]), (images, 1))
    right = logits.argmax(axis=1)
    assert LOWEST <= fit_temperature(logits, right) <= HIGHEST


def test_calibration_error_by_hand() -> None:
    logits = np.log(np.array([[0.9, 0.1]] * 10))
    said = Predictions(list("abcdefghij"), np.array([0] * 6 + [1] * 4), logits, ["x", "y"])
    assert said.ece == pytest.approx(0.3)


def test_joining_keeps_every_image() -> None:
    both = joined([SAID, SAID])
    assert both.paths == SAID.paths * 2
    assert both.accuracy == SAID.accuracy
