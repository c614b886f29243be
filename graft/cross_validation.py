"""Evidence before promotion: the whole recipe on each fold, judged on images that it did not see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.config import ModelConfig
from graft.data.splits import Folds
from graft.inputs.cut import Cut
from graft.inputs.datasets import Images, ImageSource
from graft.learning.calibration import fit_temperature
from graft.learning.evaluation import evaluate_rest
from graft.learning.history import EpochMetrics, OnEpochEnd, Phase
from graft.learning.metrics import Predictions, joined
from graft.networks.backbones import build, preprocessing, stages
from graft.plan import TrainingPlan, fine_tuning
from graft.seeds import derive_seed
from graft.training import Trained, train
from graft.training_config import TrainingConfig


@dataclass(frozen=True)
class FoldResult:
    """One fold: what the model said of the test images after warm-up and after fine-tuning, and all epochs."""

    fold: int
    head_only: Predictions
    fine_tuned: Predictions
    warm_up: list[EpochMetrics]
    fine_tune: list[EpochMetrics]

    def named(self) -> dict[str, float]:
        """The fold's own metrics under their names in MLflow."""
        return {
            "fold/accuracy": self.fine_tuned.accuracy,
            "fold/macro_f1": self.fine_tuned.macro_f1,
            "fold/accuracy_head_only": self.head_only.accuracy,
        }


@dataclass(frozen=True)
class CrossValidation:
    """All folds: accuracies and macro-F1s 0..1, one a fold, and the predictions for every training image.

    ``out_of_fold.temperature`` was fitted on these predictions; it calibrates the final model.
    """

    accuracies: list[float]
    macro_f1s: list[float]
    head_only_accuracies: list[float]
    out_of_fold: Predictions

    @property
    def temperature(self) -> float:
        """The temperature that calibrates the out-of-fold predictions."""
        return self.out_of_fold.temperature

    def named(self) -> dict[str, float]:
        """The metrics under their names in MLflow; ``std`` is the sample standard deviation over folds."""
        return {
            "cv/accuracy_mean": float(np.mean(self.accuracies)),
            "cv/accuracy_std": float(np.std(self.accuracies, ddof=1)),
            "cv/macro_f1_mean": float(np.mean(self.macro_f1s)),
            "cv/accuracy_head_only_mean": float(np.mean(self.head_only_accuracies)),
        }


def train_and_test(
    folds: Folds,
    fold: int,
    root: Path,
    configs: tuple[ModelConfig, TrainingConfig, TrainingPlan],
    seed: int,
    on_epoch_end: OnEpochEnd,
) -> FoldResult:
    """Warm up and fine-tune on the other folds, then judge on this one, once."""
    model_config, asked, plan = configs
    training = plan.settled(asked)
    training_rows, validation_rows, test_rows = folds.rows(fold)
    source = ImageSource(root, sorted(folds.table["label"].unique()), preprocessing(model_config))
    images = Images(source, training_rows, validation_rows)
    fold_seed = derive_seed(seed, "fold", fold)
    fresh = Trained(build(model_config, len(source.classes), fold_seed))
    warm = train(fresh, Phase.warm_up(training.warm_up), training.loop, images, fold_seed, on_epoch_end)
    head_only = evaluate_rest(Cut(warm.model, "head", training.loop, source), test_rows)
    if not plan.decision.thaw_epochs:
        return FoldResult(fold, head_only, head_only, warm.history, [])
    phase = fine_tuning(training.fine_tune, plan.decision)
    tuned = train(warm, phase, training.loop, images, fold_seed, on_epoch_end)
    moving = phase.first_moving(stages(tuned.model))
    said = evaluate_rest(Cut(tuned.model, moving, training.loop, source), test_rows)
    return FoldResult(fold, head_only, said, warm.history, tuned.history)


def summarize(results: list[FoldResult]) -> CrossValidation:
    """Gather the folds and fit the temperature on their joined predictions."""
    results = sorted(results, key=lambda result: result.fold)
    said = joined([result.fine_tuned for result in results])
    temperature = fit_temperature(said.logits, said.labels)
    return CrossValidation(
        [result.fine_tuned.accuracy for result in results],
        [result.fine_tuned.macro_f1 for result in results],
        [result.head_only.accuracy for result in results],
        Predictions(said.paths, said.labels, said.logits, said.classes, temperature),
    )
