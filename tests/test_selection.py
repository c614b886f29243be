"""The choice among options by their out-of-fold predictions, and the correction of its estimate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from graft.evaluation.metrics import Predictions
from graft.training.selection import Option, choose, choose_option, corrected_accuracy, paired_difference
from graft.training.strategy import HEAD_ONLY, Candidate


def option(cost: int, logits: np.ndarray, labels: np.ndarray, epochs: int = 1) -> Option:
    candidate = Candidate(f"last_{cost}_stages", "last_stages", unfreeze_epochs=(0,) * cost) if cost else HEAD_ONLY
    classes = [str(n) for n in range(logits.shape[1])]
    return Option(candidate, epochs, Predictions([str(n) for n in range(len(labels))], labels, logits, classes))


def simulated_options(
    accuracies: list[float], costs: list[int], images: int, generator: np.random.Generator, shared: float = 0.5
) -> list[Option]:
    """Options of two classes whose true accuracies are known; ``shared`` is the correlation of their errors."""
    common = generator.normal(size=images)
    labels = np.zeros(images, dtype=np.int64)
    options = []
    for accuracy, cost in zip(accuracies, costs, strict=True):
        noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * generator.normal(size=images)
        margin = noise + norm.ppf(accuracy)
        options.append(option(cost, np.stack([margin, -margin], axis=1), labels))
    return options


def choose_once(losses: np.ndarray) -> int:
    return int(choose(losses, np.ones((1, len(losses))))[0])


def test_preferred_option_is_chosen_if_its_loss_is_within_one_standard_error_of_the_lowest() -> None:
    generator = np.random.default_rng(0)
    better = generator.normal(1, 1, 100)
    noise = generator.normal(0, 1, 100)
    noisy = better + 0.05 + noise - noise.mean()  # a standard error of 0.1
    constant = better + 0.05  # no standard error
    assert choose_once(np.stack([noisy, better], axis=1)) == 0
    assert choose_once(np.stack([constant, better], axis=1)) == 1
    assert choose_once(np.stack([better, noisy], axis=1)) == 0
    assert choose_once(np.stack([constant, noisy, better], axis=1)) == 1


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 40))
def test_every_sample_of_a_bootstrap_is_chosen_as_if_it_were_alone(seed: int, options: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    losses = generator.normal(1, 1, (images, options))
    rows = generator.integers(0, images, (5, images))
    weights = np.stack([np.bincount(sample, minlength=images) for sample in rows]).astype(float)
    expected = [choose_once(losses[sample]) for sample in rows]
    assert choose(losses, weights).tolist() == expected


def test_difference_changes_sign_if_sides_are_swapped() -> None:
    worse, better = simulated_options([0.6, 0.9], [0, 5], 500, np.random.default_rng(0))
    gain, loss = paired_difference(worse, better), paired_difference(better, worse)
    assert gain.is_significant
    assert not loss.is_significant
    assert (gain.mean, gain.standard_error) == pytest.approx((-loss.mean, loss.standard_error))
    assert choose_option([worse, better]) is better


@pytest.mark.parametrize(
    ("accuracies", "costs", "images"),
    [
        ([0.8] * 7, [0, 5, 5, 5, 12, 12, 12], 100),  # nothing to choose, so the best is best by luck
        ([0.8] * 7, [0, 5, 5, 5, 12, 12, 12], 400),
        ([0.7, 0.8, 0.81, 0.83], [0, 5, 12, 12], 200),
    ],
)
def test_corrected_accuracy_is_unbiased_and_its_interval_covers(
    accuracies: list[float], costs: list[int], images: int
) -> None:
    generator = np.random.default_rng(0)
    naive, corrected, covered = [], [], []
    for _ in range(150):
        options = simulated_options(accuracies, costs, images, generator)
        chosen = choose_option(options)
        truth = next(truth for truth, each in zip(accuracies, options, strict=True) if each is chosen)
        estimate = corrected_accuracy(options, resamples=200)
        naive.append(chosen.predictions.accuracy - truth)
        corrected.append(estimate.mean - truth)
        covered.append(estimate.low <= truth <= estimate.high)
    standard_error = np.std(corrected) / np.sqrt(len(corrected))
    assert abs(np.mean(corrected)) < 3 * standard_error + 0.002
    assert abs(np.mean(corrected)) < abs(np.mean(naive))
    assert np.mean(covered) >= 0.91  # 0.95 less two standard errors of 150 repetitions


def test_accuracy_of_a_single_option_needs_no_correction() -> None:
    (only,) = simulated_options([0.8], [0], 300, np.random.default_rng(0))
    assert corrected_accuracy([only]).mean == pytest.approx(only.predictions.accuracy, abs=0.005)
