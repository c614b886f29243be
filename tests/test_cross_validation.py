"""Which candidates stay in the race, which recipe wins, and the summary of the folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graft.config.training import ComputeConfig, FineTuneConfig
from graft.training.cross_validation import choose_recipe, drop_candidates, mean_history
from graft.training.folds import CandidateResult, FoldResult
from graft.training.history import EpochMetrics
from graft.training.plan import StagePlan, TrainingPlan
from graft.training.strategy import HEAD_ONLY, Candidate

IMAGES, CLASSES = 60, ["a", "b", "c"]
FEW, MANY, ALL = (
    Candidate(name, "last_stages", FineTuneConfig(epochs=10), (0,) * count)
    for name, count in (("few", 1), ("many", 2), ("all", 3))
)
PLAN = TrainingPlan(
    [HEAD_ONLY, FEW, MANY],
    "proposed",
    images_per_class=20,
    similarity=0.5,
    stage_plans={
        "head_only": [StagePlan("features.1", 100, 0, 0, 0.0, ""), StagePlan("head", 10, 10, 1, 1e-3, "")],
        "few": [StagePlan("features.1", 100, 100, 1, 1e-4, ""), StagePlan("head", 10, 10, 1, 1e-3, "")],
        "many": [StagePlan("features.1", 100, 100, 1, 1e-4, ""), StagePlan("head", 10, 10, 1, 1e-3, "")],
    },
    compute=ComputeConfig(device="cpu"),
)
CONFIGURED = replace(PLAN, candidates=[HEAD_ONLY, MANY], similarity=None)


def fold_result(fold: int, skills: dict[str, dict[int, float]], failures: dict[str, str] | None = None) -> FoldResult:
    """A fold in which the true class stands out of noisy logits by the skill of each candidate and epoch."""
    labels = np.random.default_rng(fold).integers(0, len(CLASSES), IMAGES)
    candidates = []
    for number, (name, by_epochs) in enumerate(skills.items()):
        logits = {}
        for epochs, skill in by_epochs.items():
            noise = np.random.default_rng([number, fold]).normal(size=(IMAGES, len(CLASSES)))
            noise[np.arange(IMAGES), labels] += skill
            logits[epochs] = noise.astype(np.float32)
        failure = (failures or {}).get(name, "")
        history = [EpochMetrics(1.0, 1.0, 0.5, 0.5, 0.5)] * 10
        candidates.append(CandidateResult(name, {} if failure else logits, history, 1.5, failure))
    return FoldResult(fold, [f"{fold}/{n}.png" for n in range(IMAGES)], labels, CLASSES, candidates)


def fold_results(failures: dict[str, str] | None = None, **skills: dict[int, float]) -> list[FoldResult]:
    return [fold_result(fold, skills, failures) for fold in range(5)]


def test_first_fold_leaves_the_better_half_of_the_candidates_in_the_race() -> None:
    plan = replace(PLAN, candidates=[HEAD_ONLY, FEW, MANY, ALL])
    first = fold_result(0, {"head_only": {4: 1.0}, "few": {10: 3.0}, "many": {10: 3.0}, "all": {10: 0.5}})
    assert [each.name for each in drop_candidates(plan, first).candidates] == ["head_only", "few", "many"]


def test_first_fold_ends_the_race_of_candidates_that_are_clearly_worse_than_the_head_alone() -> None:
    first = fold_result(0, {"head_only": {4: 3.0}, "few": {10: 0.5}, "many": {10: 0.5}})
    assert drop_candidates(PLAN, first).candidates == [HEAD_ONLY]


def test_first_fold_leaves_out_a_candidate_that_failed() -> None:
    first = fold_result(0, {"head_only": {4: 1.0}, "few": {10: 1.0}, "many": {10: 3.0}}, {"many": "diverged"})
    assert drop_candidates(PLAN, first).candidates == [HEAD_ONLY, FEW]


def test_first_fold_drops_no_candidate_that_the_config_sets() -> None:
    first = fold_result(0, {"head_only": {4: 3.0}, "many": {10: 0.5}})
    assert drop_candidates(CONFIGURED, first) is CONFIGURED


def test_best_candidate_is_chosen_with_the_reason_and_the_scores_of_all() -> None:
    recipe, summary = choose_recipe(
        fold_results(head_only={4: 1.0}, few={10: 1.1}, many={6: 1.0, 8: 2.0, 10: 3.0}), PLAN
    )
    assert recipe.candidates == [HEAD_ONLY, MANY]
    assert recipe.recipe.phase.last_epoch == 10
    assert recipe.reason.startswith("the out-of-fold log loss is lower than that of the head alone by 0.")
    assert [(score.name, score.epochs, score.outcome) for score in summary.candidates] == [
        ("head_only", 4, "higher log loss"), ("few", 10, "higher log loss"), ("many", 10, "chosen"),
    ]  # fmt: skip
    assert summary.candidates[0].seconds == pytest.approx(5 * 1.5)
    assert len(summary.fine_tune) == 10


def test_fewer_epochs_are_trained_if_the_folds_find_them_better() -> None:
    recipe, summary = choose_recipe(fold_results(head_only={4: 1.0}, many={6: 3.0, 8: 2.0, 10: 1.5}), PLAN)
    assert recipe.recipe == replace(MANY, stop_after=6)
    assert recipe.recipe.phase.last_epoch == 6
    assert recipe.recipe.phase.epochs == 10  # of the schedule, as in the folds
    assert recipe.stages == PLAN.stage_plans["many"]
    assert summary.accuracies[0] > summary.head_only_accuracies[0]


def test_head_alone_is_chosen_if_fine_tuning_does_not_lower_the_loss() -> None:
    recipe, summary = choose_recipe(fold_results(head_only={4: 3.0}, many={10: 1.0}), PLAN)
    assert recipe.candidates == [HEAD_ONLY]
    assert "many does not lower the out-of-fold log loss by more than one standard error (by -" in recipe.reason
    assert summary.accuracies == summary.head_only_accuracies
    assert summary.fine_tune == []


def test_candidate_that_failed_in_a_fold_is_out_of_the_race_with_its_reason() -> None:
    results = fold_results(head_only={4: 1.0}, few={10: 2.0}, many={10: 3.0})
    results[3] = fold_result(3, {"head_only": {4: 1.0}, "few": {10: 2.0}, "many": {10: 3.0}}, {"many": "diverged"})
    recipe, summary = choose_recipe(results, PLAN)
    assert recipe.recipe == FEW
    assert summary.candidates[2].outcome == "failed in 1 folds: diverged"
    assert summary.candidates[2].log_loss is None


def test_configured_strategy_is_followed_whatever_the_folds_say() -> None:
    recipe, summary = choose_recipe(fold_results(head_only={4: 3.0}, many={6: 2.0, 10: 1.0}), CONFIGURED)
    assert recipe == CONFIGURED
    assert summary.accuracy.mean == pytest.approx(np.mean(summary.accuracies))


def test_configured_strategy_that_fails_is_replaced_by_the_head_alone() -> None:
    recipe, _ = choose_recipe(fold_results({"many": "diverged"}, head_only={4: 1.0}, many={10: 1.0}), CONFIGURED)
    assert recipe.candidates == [HEAD_ONLY]
    assert recipe.reason == "many failed: diverged"


def test_out_of_fold_predictions_are_those_of_the_recipe_in_the_order_of_the_folds() -> None:
    results = fold_results(head_only={4: 3.0}, many={10: 1.0})
    _, summary = choose_recipe(results[::-1], PLAN)
    assert summary.out_of_fold.paths == [path for result in results for path in result.paths]
    assert np.array_equal(summary.out_of_fold.logits[:IMAGES], results[0].candidates[0].logits[4])
    assert summary.temperature != 1.0


def test_accuracy_estimate_is_corrected_for_the_choice() -> None:
    options = {6: 1.0, 8: 1.0, 10: 1.0}
    _, summary = choose_recipe(fold_results(head_only={4: 1.0}, few=options, many=options), PLAN)
    assert summary.accuracy.low < summary.accuracy.mean < summary.accuracy.high
    assert summary.accuracy.mean == pytest.approx(np.mean(summary.accuracies), abs=0.03)


def test_mean_history_covers_the_epochs_that_all_folds_have() -> None:
    long, short = [EpochMetrics(1.0, 2.0, 0.4, 0.4, 0.4)] * 3, [EpochMetrics(3.0, 4.0, 0.6, 0.6, 0.6)] * 2
    assert mean_history([long, short]) == [EpochMetrics(2.0, 3.0, 0.5, 0.5, 0.5)] * 2
