"""The gate lists every failed condition, and lets pass what is not clearly worse."""

from __future__ import annotations

import numpy as np
import pytest

from graft.config import GateConfig
from graft.errors import PromotionRefusedError
from graft.promotion import Comparison, compare, judge

GATE = GateConfig(min_accuracy=0.8, min_images=20, significance=0.05)


def contest(images: int, challenger_right: int, champion_right: int) -> Comparison:
    """Both models right on the first so many images."""
    labels = np.zeros(images, dtype=np.int64)
    said = [np.where(np.arange(images) < right, 0, 1) for right in (challenger_right, champion_right)]
    return compare(("2", "1"), labels, *said)


def test_a_first_champion_needs_the_floor_only() -> None:
    comparison = compare(("1", None), np.zeros(30), np.zeros(30), None)
    verdict = judge(comparison, GATE)
    assert verdict.passed
    assert len(verdict.conditions) == 2
    verdict.require_passed()


def test_clearly_worse_is_refused() -> None:
    comparison = contest(100, 85, 95)
    assert (comparison.only_challenger_right, comparison.only_champion_right) == (0, 10)
    assert comparison.p_worse == pytest.approx(0.5**10)
    with pytest.raises(
        PromotionRefusedError, match=r"p of at least 0.05, found p = 0.000977 \(0.850 against 0.950\)"
    ):
        judge(comparison, GATE).require_passed()


def test_a_little_worse_may_be_chance_and_passes() -> None:
    assert judge(contest(100, 93, 95), GATE).passed


def test_better_and_equal_pass() -> None:
    assert judge(contest(100, 99, 85), GATE).passed
    assert contest(100, 90, 90).p_worse == 1.0


def test_every_failed_condition_is_listed_with_required_and_actual() -> None:
    with pytest.raises(PromotionRefusedError) as error:
        judge(contest(10, 2, 10), GATE).require_passed()
    message = str(error.value)
    assert "version 2 is not promoted" in message
    assert "required at least 20, found 10" in message
    assert "required at least 0.800, found 0.200" in message
    assert "exact McNemar test" in message


def test_no_images_is_a_failed_condition_not_an_error() -> None:
    empty = np.array([], dtype=np.int64)
    assert not judge(compare(("2", "1"), empty, empty, empty), GATE).passed
