"""The choice between the head alone and fine-tuning by the predictions of the folds."""

from __future__ import annotations

import numpy as np
import pytest

from graft.config.training import ComputeConfig, TrainingConfig
from graft.evaluation.metrics import Predictions
from graft.training.folds import FoldResult, summarize
from graft.training.plan import StagePlan, TrainingPlan
from graft.training.selection import choose_recipe, fine_tuning_gain
from graft.training.strategy import StrategyDecision

IMAGES, CLASSES = 60, ["a", "b", "c"]
PLAN = TrainingPlan(
    StrategyDecision("last_stages", (0,), "proposed"),
    images_per_class=20,
    similarity=0.5,
    stages=[
        StagePlan("features.0", 100, 0, 0, 0.0, "statistics frozen"),
        StagePlan("features.1", 100, 100, 1, 1e-4, "statistics frozen"),
        StagePlan("head", 10, 10, 1, 5e-4, ""),
    ],
    compute=ComputeConfig(device="cpu"),
)
AUTO = TrainingConfig(strategy="auto")


def predictions(skill: float, seed: int, fold: int) -> Predictions:
    """Noisy logits, in which the true class stands out by ``skill``."""
    labels = np.random.default_rng(fold).integers(0, len(CLASSES), IMAGES)
    logits = np.random.default_rng([seed, fold]).normal(size=(IMAGES, len(CLASSES)))
    logits[np.arange(IMAGES), labels] += skill
    return Predictions([f"{fold}/{n}.png" for n in range(IMAGES)], labels, logits.astype(np.float32), CLASSES)


def fold_results(head_only: float, fine_tuned: float, failure: str = "") -> list[FoldResult]:
    return [
        FoldResult(fold, predictions(head_only, 1, fold), predictions(fine_tuned, 2, fold), [], [], failure)
        for fold in range(5)
    ]


def test_gain_is_positive_if_fine_tuned_predictions_are_better_and_changes_sign_if_sides_are_swapped() -> None:
    gain, loss = fine_tuning_gain(fold_results(1.0, 3.0)), fine_tuning_gain(fold_results(3.0, 1.0))
    assert gain.is_significant
    assert gain.mean > 0.2
    assert loss.mean < -0.2
    assert not loss.is_significant


def test_gain_ignores_confidence_which_calibration_corrects() -> None:
    results = [
        FoldResult(
            fold,
            head := predictions(2.0, 1, fold),
            Predictions(head.paths, head.labels, head.logits * 7, CLASSES),
            [],
            [],
        )
        for fold in range(5)
    ]
    assert fine_tuning_gain(results).mean == pytest.approx(0.0, abs=0.01)


def test_auto_keeps_fine_tuning_that_the_folds_support_and_says_by_how_much() -> None:
    chosen = choose_recipe(fold_results(1.0, 3.0), PLAN, AUTO)
    assert chosen.decision.unfreeze_epochs == (0,)
    assert "fine-tuning lowers the out-of-fold log loss by" in chosen.decision.reason


@pytest.mark.parametrize(("head_only", "fine_tuned", "failure"), [(3.0, 1.0, ""), (1.0, 3.0, "training diverged")])
def test_auto_drops_fine_tuning_that_is_worse_or_failed(head_only: float, fine_tuned: float, failure: str) -> None:
    chosen = choose_recipe(fold_results(head_only, fine_tuned, failure), PLAN, AUTO)
    assert chosen.decision.strategy == "head_only"
    assert not chosen.decision.unfreeze_epochs
    assert failure in chosen.decision.reason
    assert [stage.trainable for stage in chosen.stages] == [0, 0, 10]
    assert chosen.stages[-1].learning_rate == AUTO.warm_up.learning_rate


def test_configured_strategy_is_followed_whatever_the_folds_say() -> None:
    assert choose_recipe(fold_results(3.0, 1.0), PLAN, TrainingConfig(strategy="last_stages")) is PLAN


def test_summary_is_that_of_the_chosen_recipe() -> None:
    results = fold_results(3.0, 1.0)
    summary = summarize(results, choose_recipe(results, PLAN, AUTO))
    assert summary.accuracies == summary.head_only_accuracies
    assert summary.accuracies != summary.fine_tuned_accuracies
    assert np.array_equal(summary.out_of_fold.logits[:IMAGES], results[0].head_only.logits)
    assert summarize(results, PLAN).accuracies == summary.fine_tuned_accuracies
