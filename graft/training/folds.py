"""Cross-validation: the whole recipe on each fold, tested once on images that it did not train on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graft.config.parameters import ModelConfig
from graft.config.training import TrainingConfig
from graft.data.splits import Folds
from graft.evaluation.calibration import fit_temperature
from graft.evaluation.evaluate import evaluate_split_model
from graft.evaluation.metrics import Predictions, concatenate_predictions
from graft.features.loaders import DatasetInfo, TrainingImages
from graft.features.split_model import SplitModel
from graft.models.backbones import build_model, preprocessing_for
from graft.models.stages import stage_names
from graft.seeds import derive_seed
from graft.training.history import EpochMetrics, OnEpochEnd
from graft.training.loop import TrainResult
from graft.training.plan import TrainingPlan
from graft.training.recipe import planned_phases, run_phases


@dataclass(frozen=True)
class FoldResult:
    """One fold: predictions on its test images after warm-up and after fine-tuning, and the history of both.

    ``failure`` says why fine-tuning was abandoned, if it was; its predictions are then those of the warm head.
    """

    fold: int
    head_only: Predictions
    fine_tuned: Predictions
    warm_up: list[EpochMetrics]
    fine_tune: list[EpochMetrics]
    failure: str = ""

    def to_metrics(self) -> dict[str, float]:
        """The fold's metrics by their names in MLflow."""
        return {
            "fold/accuracy": self.fine_tuned.accuracy,
            "fold/macro_f1": self.fine_tuned.macro_f1,
            "fold/accuracy_head_only": self.head_only.accuracy,
        }


@dataclass(frozen=True)
class CrossValidation:
    """All folds: accuracy and macro-F1 (0..1) of each, and the out-of-fold predictions of every training image.

    ``accuracies``, ``macro_f1s`` and ``out_of_fold`` are those of the chosen recipe.

    ``out_of_fold.temperature`` is fitted on these predictions; it calibrates the final model.
    """

    accuracies: list[float]
    macro_f1s: list[float]
    head_only_accuracies: list[float]
    fine_tuned_accuracies: list[float]
    out_of_fold: Predictions

    @property
    def temperature(self) -> float:
        """The temperature that calibrates the out-of-fold predictions."""
        return self.out_of_fold.temperature

    def to_metrics(self) -> dict[str, float]:
        """The metrics by their names in MLflow; ``std`` is the sample standard deviation over folds."""
        return {
            "cv/accuracy_mean": float(np.mean(self.accuracies)),
            "cv/accuracy_std": float(np.std(self.accuracies, ddof=1)),
            "cv/macro_f1_mean": float(np.mean(self.macro_f1s)),
            "cv/accuracy_head_only_mean": float(np.mean(self.head_only_accuracies)),
            "cv/accuracy_fine_tuned_mean": float(np.mean(self.fine_tuned_accuracies)),
        }


def cross_validate_fold(
    folds: Folds,
    fold: int,
    model: ModelConfig,
    training: TrainingConfig,
    plan: TrainingPlan,
    *,
    seed: int,
    on_epoch_end: OnEpochEnd,
) -> FoldResult:
    """Train the recipe without a fold, then test the warm head and the final model on it."""
    training = plan.with_compute(training)
    train_records, validation_records, test_records = folds.records(fold)
    dataset = DatasetInfo(folds.folder(), folds.classes, preprocessing_for(model))
    images = TrainingImages(dataset, train_records, validation_records)
    fold_seed = derive_seed(seed, "fold", fold)
    start = TrainResult(build_model(model, len(dataset.classes), fold_seed))
    phases, config = planned_phases(training, plan), training.train_config
    results = run_phases(start, phases, config, images, seed=fold_seed, on_epoch_end=on_epoch_end)
    predictions = []
    for phase, result in zip(phases, results, strict=True):
        first_trained = phase.first_trainable_stage(stage_names(result.model))
        split_model = SplitModel(result.model, first_trained, config, dataset)
        predictions.append(evaluate_split_model(split_model, test_records))
    fine_tune_history = results[1].history if len(results) > 1 else []
    return FoldResult(fold, predictions[0], predictions[-1], results[0].history, fine_tune_history, results[-1].failure)


def summarize(results: list[FoldResult], plan: TrainingPlan) -> CrossValidation:
    """Combine the folds for the recipe that ``plan`` chose, and fit the temperature on their predictions."""
    results = sorted(results, key=lambda result: result.fold)
    fine_tunes = bool(plan.decision.unfreeze_epochs)
    chosen = [result.fine_tuned if fine_tunes else result.head_only for result in results]
    joined = concatenate_predictions(chosen)
    return CrossValidation(
        accuracies=[predictions.accuracy for predictions in chosen],
        macro_f1s=[predictions.macro_f1 for predictions in chosen],
        head_only_accuracies=[result.head_only.accuracy for result in results],
        fine_tuned_accuracies=[result.fine_tuned.accuracy for result in results],
        out_of_fold=replace(joined, temperature=fit_temperature(joined.logits, joined.labels)),
    )
