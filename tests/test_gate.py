"""The promotion gate lists every failed condition, and passes a challenger that is not clearly worse."""

from __future__ import annotations

import numpy as np
import pytest

from graft.config.parameters import GateConfig
from graft.errors import PromotionRefusedError
from graft.promotion.gate import Comparison, apply_gate, compare

GATE = GateConfig(min_accuracy=0.8, min_images=20, significance=0.05)


def comparison_of(images: int, challenger_correct: int, champion_correct: int) -> Comparison:
    """A comparison of models that classify the first images correctly, each up to its count."""
    labels = np.zeros(images, dtype=np.int64)
    predictions = [np.where(np.arange(images) < correct, 0, 1) for correct in (challenger_correct, champion_correct)]
    return compare(("2", "1"), labels, *predictions)


def test_gate_checks_only_thresholds_for_first_champion() -> None:
    comparison = compare(("1", None), np.zeros(30), np.zeros(30), None)
    verdict = apply_gate(comparison, GATE)
    assert verdict.passed
    assert len(verdict.conditions) == 2
    verdict.check_passed()


def test_gate_refuses_clearly_worse_challenger() -> None:
    comparison = comparison_of(100, 85, 95)
    assert (comparison.only_challenger_right, comparison.only_champion_right) == (0, 10)
    assert comparison.p_worse == pytest.approx(0.5**10)
    with pytest.raises(PromotionRefusedError, match=r"p of at least 0.05, found p = 0.000977 \(0.850 against 0.950\)"):
        apply_gate(comparison, GATE).check_passed()


def test_gate_passes_slightly_worse_challenger() -> None:
    assert apply_gate(comparison_of(100, 93, 95), GATE).passed


def test_gate_passes_better_and_equal_challengers() -> None:
    assert apply_gate(comparison_of(100, 99, 85), GATE).passed
    assert comparison_of(100, 90, 90).p_worse == 1.0


def test_refusal_lists_every_failed_condition_with_required_and_actual() -> None:
    with pytest.raises(PromotionRefusedError) as error:
        apply_gate(comparison_of(10, 2, 10), GATE).check_passed()
    message = str(error.value)
    assert "version 2 is not promoted" in message
    assert "required at least 20, found 10" in message
    assert "required at least 0.800, found 0.200" in message
    assert "exact McNemar test" in message


def test_gate_fails_without_images_instead_of_raising() -> None:
    empty = np.array([], dtype=np.int64)
    assert not apply_gate(compare(("2", "1"), empty, empty, empty), GATE).passed
