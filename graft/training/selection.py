"""Chooses between the head alone and fine-tuning by the predictions of all folds on their test images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from graft.config.training import TrainingConfig
from graft.evaluation.calibration import fit_temperature
from graft.evaluation.metrics import Predictions, concatenate_predictions
from graft.training.folds import FoldResult
from graft.training.plan import TrainingPlan


@dataclass(frozen=True)
class FineTuningGain:
    """How much fine-tuning lowers the calibrated out-of-fold log loss: mean over images and its standard error, nats.

    Negative if fine-tuning makes predictions worse.
    """

    mean: float
    standard_error: float

    @property
    def is_significant(self) -> bool:
        """Whether the gain exceeds one standard error: otherwise, the simpler model is preferred (Breiman 1984)."""
        return self.mean > self.standard_error


def choose_recipe(results: list[FoldResult], plan: TrainingPlan, training: TrainingConfig) -> TrainingPlan:
    """The plan of the final model: without fine-tuning, if ``auto`` proposed it and the folds do not support it.

    A strategy that the config sets is followed whatever the folds say.
    """
    if training.strategy != "auto" or not plan.decision.unfreeze_epochs:
        return plan
    failures = [result.failure for result in results if result.failure]
    if failures:
        return plan.without_fine_tuning(training.warm_up, f"fine-tuning failed in {len(failures)} folds: {failures[0]}")
    gain = fine_tuning_gain(results)
    difference = f"{abs(gain.mean):.3f} ± {gain.standard_error:.3f} nats"
    if gain.is_significant:
        return plan.with_reason(f"fine-tuning lowers the out-of-fold log loss by {difference}")
    change = "lowers" if gain.mean > 0 else "raises"
    return plan.without_fine_tuning(
        training.warm_up, f"fine-tuning {change} the out-of-fold log loss by {difference}, which does not support it"
    )


def fine_tuning_gain(results: list[FoldResult]) -> FineTuningGain:
    """The paired gain over the test images of all folds, each side calibrated by a temperature of its own."""
    results = sorted(results, key=lambda result: result.fold)
    head_only = _calibrated(concatenate_predictions([result.head_only for result in results]))
    fine_tuned = _calibrated(concatenate_predictions([result.fine_tuned for result in results]))
    gains = head_only.image_losses - fine_tuned.image_losses
    return FineTuningGain(float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains))))


def _calibrated(predictions: Predictions) -> Predictions:
    return replace(predictions, temperature=fit_temperature(predictions.logits, predictions.labels))
