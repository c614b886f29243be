"""Cross-validation: every candidate on each fold, tested on images that it did not train on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from graft.config.parameters import ModelConfig
from graft.config.training import TrainingConfig
from graft.data.splits import Folds
from graft.evaluation.metrics import Predictions
from graft.features.loaders import DatasetInfo, TrainingImages
from graft.models.backbones import build_model, preprocessing_for
from graft.seeds import derive_seed
from graft.training.history import EpochMetrics, OnEpochEnd, Phase
from graft.training.loop import TrainResult
from graft.training.plan import TrainingPlan
from graft.training.recipe import run_phases
from graft.training.strategy import HEAD_ONLY


@dataclass(frozen=True)
class CandidateResult:
    """A candidate on one fold: logits on its test images after each milestone of the last phase, and its history.

    ``logits`` is float32 ``[images, classes]`` by the number of epochs. ``seconds`` are those of the last phase.
    ``failure`` says why the phase was abandoned, if it was; there are no logits then.
    """

    name: str
    logits: dict[int, np.ndarray]
    history: list[EpochMetrics] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class FoldResult:
    """One fold: its test images with their true labels (int64 ``[images]``), and the result of each candidate.

    The first candidate is the head alone.
    """

    fold: int
    paths: list[str]
    labels: np.ndarray
    classes: list[str]
    candidates: list[CandidateResult]

    def predictions(self, name: str, epochs: int | None = None) -> Predictions | None:
        """A candidate's predictions after a number of epochs, by default after all; None if it has none."""
        logits = next((candidate.logits for candidate in self.candidates if candidate.name == name), {})
        epochs = max(logits, default=None) if epochs is None else epochs
        return Predictions(self.paths, self.labels, logits[epochs], self.classes) if epochs in logits else None

    def last_predictions(self) -> dict[str, Predictions]:
        """The predictions of each candidate that did not fail, after all its epochs, by its name."""
        results = {candidate.name: self.predictions(candidate.name) for candidate in self.candidates}
        return {name: predictions for name, predictions in results.items() if predictions}

    @property
    def fine_tuning_history(self) -> list[EpochMetrics]:
        """The history of the fine-tuned candidate of the lowest log loss; empty if there is none."""
        losses = {name: predictions.loss for name, predictions in self.last_predictions().items()}
        tuned = [candidate for candidate in self.candidates[1:] if candidate.name in losses]
        return min(tuned, key=lambda candidate: losses[candidate.name]).history if tuned else []

    def to_metrics(self) -> dict[str, float]:
        """The fold's metrics by their names in MLflow; ``fold/accuracy`` is that of the best candidate."""
        tested = self.last_predictions()
        best = min(tested.values(), key=lambda predictions: predictions.loss)
        return {
            "fold/accuracy": best.accuracy,
            "fold/macro_f1": best.macro_f1,
            **{f"fold/accuracy_{name}": predictions.accuracy for name, predictions in tested.items()},
            **{f"fold/log_loss_{name}": predictions.loss for name, predictions in tested.items()},
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
    """Train every candidate of the plan on all folds but one, and test it on that one.

    Candidates share the warm-up of the head, which must succeed; a candidate whose fine-tuning fails says why.
    """
    training = plan.with_compute(training)
    train_records, test_records = folds.records(fold)
    dataset = DatasetInfo(folds.folder(), folds.classes, preprocessing_for(model))
    images = TrainingImages(dataset, train_records, validation=test_records)
    seed = derive_seed(seed, "fold", fold)

    def run(name: str, start: TrainResult, phase: Phase) -> tuple[TrainResult, CandidateResult]:
        started = time.perf_counter()
        (result,) = run_phases(start, [phase], training.train_config, images, seed=seed, on_epoch_end=on_epoch_end)
        logits = {epochs: predictions.logits for epochs, predictions in result.predictions.items()}
        seconds = time.perf_counter() - started
        return result, CandidateResult(name, logits, result.history, seconds, result.failure)

    untrained = TrainResult(build_model(model, len(dataset.classes), seed))
    warm, head_only = run(HEAD_ONLY.name, untrained, Phase.warm_up(training.warm_up))
    is_race = len(plan.candidates) > 2
    tuned = [
        run(candidate.name, warm, replace(candidate.phase, candidate=candidate.name if is_race else ""))[1]
        for candidate in plan.candidates[1:]
    ]
    labels = dataset.class_indices(test_records["label"])
    return FoldResult(fold, list(test_records["path"]), labels, dataset.classes, [head_only, *tuned])
