"""The folds together: which candidates they leave in the race, which recipe they choose, and its estimated accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from graft.evaluation.metrics import Predictions
from graft.training.folds import CandidateResult, FoldResult
from graft.training.history import EpochMetrics
from graft.training.plan import TrainingPlan
from graft.training.selection import (
    AccuracyEstimate,
    Difference,
    Option,
    best_option,
    choose_option,
    collect_options,
    corrected_accuracy,
    paired_difference,
    wilson_interval,
)
from graft.training.strategy import HEAD_ONLY, Candidate


@dataclass(frozen=True)
class CandidateScore:
    """A candidate after cross-validation, at its best number of epochs.

    ``accuracies`` (0..1) has one value for each fold that tested it. ``log_loss`` is that of its calibrated out-of-fold
    predictions, and ``difference`` that minus the chosen recipe's on the same images, in nats; both are None unless
    every fold tested it. ``seconds`` is the time of its fine-tuning, or of the warm-up, over all folds. ``outcome``
    says what became of it.
    """

    name: str
    unfrozen_stages: int
    epochs: int
    accuracies: list[float]
    log_loss: float | None
    difference: Difference | None
    seconds: float
    outcome: str


@dataclass(frozen=True)
class CrossValidation:
    """All folds with the chosen recipe: accuracy and macro-F1 (0..1) of each, and the scores of all candidates.

    ``accuracy`` estimates that of the recipe on new images, corrected for the choice if there was one. ``out_of_fold``
    has the recipe's predictions on every training image; its temperature is fitted on them, and calibrates the final
    model. ``warm_up`` and ``fine_tune`` are the means of the folds' metrics in each epoch.
    """

    accuracies: list[float]
    macro_f1s: list[float]
    accuracy: AccuracyEstimate
    candidates: list[CandidateScore]
    out_of_fold: Predictions
    warm_up: list[EpochMetrics]
    fine_tune: list[EpochMetrics]

    @property
    def temperature(self) -> float:
        """The temperature that calibrates the out-of-fold predictions."""
        return self.out_of_fold.temperature

    @property
    def head_only_accuracies(self) -> list[float]:
        """The accuracy of the head alone on each fold."""
        return self.candidates[0].accuracies

    def to_metrics(self) -> dict[str, float]:
        """The metrics by their names in MLflow; ``std`` is the sample standard deviation over folds."""
        means = {
            score.name: float(np.mean(score.accuracies)) for score in self.candidates if score.log_loss is not None
        }
        return {
            "cv/accuracy_mean": float(np.mean(self.accuracies)),
            "cv/accuracy_std": float(np.std(self.accuracies, ddof=1)),
            "cv/macro_f1_mean": float(np.mean(self.macro_f1s)),
            "cv/accuracy_corrected": self.accuracy.mean,
            "cv/accuracy_corrected_low": self.accuracy.low,
            "cv/accuracy_corrected_high": self.accuracy.high,
            **{f"cv/accuracy_{name}_mean": mean for name, mean in means.items()},
        }


def drop_candidates(plan: TrainingPlan, first: FoldResult) -> TrainingPlan:
    """The plan without the candidates that the first fold shows to be behind.

    Successive halving (Jamieson and Talwalkar 2016): the better half of the candidates, rounded up, stays, unless its
    log loss on the fold's test images is higher than that of the best by more than one standard error. The head alone
    always stays, and so does a candidate that the config sets.
    """
    if not plan.is_auto:
        return plan
    options = {candidate.name: collect_options([first], [candidate]) for candidate in plan.candidates}
    scored = [best_option(found) for found in options.values() if found]
    best = best_option(scored)
    tuned = sorted(
        (option for option in scored if option.candidate != HEAD_ONLY), key=lambda option: option.predictions.loss
    )
    half = tuned[: (len(tuned) + 1) // 2]
    staying = {option.candidate.name for option in half if not paired_difference(option, best).is_significant}
    return replace(plan, candidates=[each for each in plan.candidates if each == HEAD_ONLY or each.name in staying])


def choose_recipe(results: list[FoldResult], plan: TrainingPlan) -> tuple[TrainingPlan, CrossValidation]:
    """The plan of the final model, and the cross-validation of its recipe.

    Strategy ``auto`` chooses among the candidates, and how many epochs to train, by ``selection.choose``; a strategy
    that the config sets is followed whatever the folds say, and only replaced by the head alone if it failed in a fold.
    """
    results = sorted(results, key=lambda result: result.fold)
    options = collect_options(results, plan.candidates)
    if plan.is_auto:
        chosen, estimate = choose_option(options), corrected_accuracy(options)
        recipe = chosen.candidate
        if recipe != HEAD_ONLY and chosen.epochs < recipe.fine_tune.epochs:
            recipe = replace(recipe, stop_after=chosen.epochs)
        reason = _reason(chosen, options)
    else:
        chosen = max(options, key=lambda option: (plan.candidates.index(option.candidate), option.epochs))
        estimate = wilson_interval(chosen.predictions.accuracy, len(chosen.predictions.labels))
        recipe, reason = chosen.candidate, plan.reason
        if recipe != plan.recipe:
            reason = f"{plan.recipe.name} failed: {_failures(results, plan.recipe)[0]}"
    folds = [result.predictions(chosen.candidate.name, chosen.epochs) for result in results]
    tested = [predictions for predictions in folds if predictions]
    return plan.with_recipe(recipe, reason), CrossValidation(
        accuracies=[predictions.accuracy for predictions in tested],
        macro_f1s=[predictions.macro_f1 for predictions in tested],
        accuracy=estimate,
        candidates=[_score(candidate, results, options, chosen) for candidate in plan.candidates],
        out_of_fold=chosen.predictions,
        warm_up=mean_history([_of(result, HEAD_ONLY).history for result in results]),
        fine_tune=mean_history([_of(result, recipe).history for result in results])
        if chosen.candidate != HEAD_ONLY
        else [],
    )


def mean_history(histories: list[list[EpochMetrics]]) -> list[EpochMetrics]:
    """The mean metrics of each epoch that all histories have."""

    def mean(epochs: Sequence[EpochMetrics], name: str) -> float:
        return float(np.mean([getattr(epoch, name) for epoch in epochs]))

    return [
        EpochMetrics(
            mean(epochs, "train_loss"),
            mean(epochs, "val_loss"),
            mean(epochs, "val_accuracy"),
            mean(epochs, "val_macro_f1"),
            mean(epochs, "val_auroc"),
        )
        for epochs in zip(*histories, strict=False)
    ]


def _reason(chosen: Option, options: list[Option]) -> str:
    """Why the folds chose an option, against the best of the alternatives that come to mind."""
    head_only = next(option for option in options if option.candidate == HEAD_ONLY)
    if chosen.candidate != HEAD_ONLY:
        return (
            f"the out-of-fold log loss is lower than that of the head alone by {paired_difference(head_only, chosen)}"
        )
    tuned = [option for option in options if option.candidate != HEAD_ONLY]
    if not tuned:
        return "no fine-tuning was left in the race after the first fold"
    best = best_option(tuned)
    return (
        f"{best.candidate.name} does not lower the out-of-fold log loss by more than one standard error "
        f"(by {paired_difference(head_only, best)})"
    )


def _score(candidate: Candidate, results: list[FoldResult], options: list[Option], chosen: Option) -> CandidateScore:
    tested = [option for option in options if option.candidate == candidate]
    best = chosen if candidate == chosen.candidate else best_option(tested) if tested else None
    folds = [result.predictions(candidate.name, best.epochs if best else None) for result in results]
    seconds = [each.seconds for result in results for each in result.candidates if each.name == candidate.name]
    difference = paired_difference(best, chosen) if best else None
    failures = _failures(results, candidate)
    if best is chosen:
        outcome = "chosen"
    elif failures:
        outcome = f"failed in {len(failures)} folds: {failures[0]}"
    elif difference is None:
        outcome = "left out after the first fold"
    elif difference.mean > 0:
        outcome = "higher log loss"
    else:
        outcome = "not better by more than one standard error, and more costly"
    return CandidateScore(
        name=candidate.name,
        unfrozen_stages=len(candidate.unfreeze_epochs),
        epochs=best.epochs if best else candidate.fine_tune.epochs,
        accuracies=[predictions.accuracy for predictions in folds if predictions],
        log_loss=best.predictions.loss if best else None,
        difference=difference,
        seconds=sum(seconds),
        outcome=outcome,
    )


def _failures(results: list[FoldResult], candidate: Candidate) -> list[str]:
    return [
        each.failure for result in results for each in result.candidates if each.name == candidate.name and each.failure
    ]


def _of(result: FoldResult, candidate: Candidate) -> CandidateResult:
    return next(each for each in result.candidates if each.name == candidate.name)
