"""Phases of training, and the metrics of their epochs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from graft.config.training import FineTuneConfig, LoraConfig, WarmUpConfig
from graft.evaluation.metrics import Predictions

PhaseName = Literal["warmup", "finetune"]  # phase names: the groups of their metrics in MLflow
WARM_UP: Final = "warmup"
FINE_TUNE: Final = "finetune"
MILESTONES = (0.6, 0.8, 1.0)  # of the epochs of fine-tuning, after which the folds test it
CONFIG_SECTIONS = {WARM_UP: "training.warm_up", FINE_TUNE: "training.fine_tune"}


@dataclass(frozen=True)
class Phase:
    """One phase of training: its length, its learning rates, and when each stage is unfrozen.

    The head trains at ``learning_rate``, each stage toward the input at ``layer_decay`` times the rate of the next.
    ``unfreeze_epochs`` holds the epoch at which each stage is unfrozen, from the output toward the input.

    The schedule is that of ``epochs``; with ``stop_after``, training ends after that many of them. ``milestones`` are
    the numbers of epochs after which predictions on the validation images are kept. ``candidate`` is the name under
    which the metrics of one of several candidates are logged.
    """

    name: PhaseName
    epochs: int
    learning_rate: float
    layer_decay: float = 1.0
    unfreeze_epochs: tuple[int, ...] = ()
    lora: LoraConfig | None = None
    stop_after: int | None = None
    candidate: str = ""

    @classmethod
    def warm_up(cls, config: WarmUpConfig) -> Phase:
        """Head warm-up: the backbone stays frozen."""
        return cls(WARM_UP, config.epochs, config.learning_rate)

    @classmethod
    def fine_tune(cls, config: FineTuneConfig, unfreeze_epochs: tuple[int, ...]) -> Phase:
        """Fine-tuning of the head and of the stages in ``unfreeze_epochs``."""
        return cls(
            FINE_TUNE,
            config.epochs,
            config.learning_rate,
            config.layer_decay,
            unfreeze_epochs,
            config.lora,
        )

    @property
    def metrics_prefix(self) -> str:
        """What the names of the phase's metrics begin with in MLflow."""
        return f"{self.name}/{self.candidate}" if self.candidate else self.name

    @property
    def last_epoch(self) -> int:
        """The number of epochs that are trained."""
        return self.stop_after or self.epochs

    @property
    def milestones(self) -> list[int]:
        """The candidates for the number of epochs: 60, 80 and 100 % of a fine-tuning, all of a warm-up."""
        fractions = MILESTONES if self.unfreeze_epochs else (1.0,)
        return sorted({math.ceil(fraction * self.last_epoch) for fraction in fractions})

    @property
    def config_section(self) -> str:
        """The section of the config that sets this phase, for error messages."""
        return CONFIG_SECTIONS[self.name]

    def first_trainable_stage(self, stages: list[str]) -> str:
        """The stage nearest to the input that is ever unfrozen; ``stages`` run from input to output."""
        return stages[-1 - len(self.unfreeze_epochs)]

    def split_stages(self, stages: list[str]) -> dict[str, int]:
        """Each stage that is ever the first trainable one, and the number of epochs from then on."""
        return {stages[-1 - self.unfrozen_at(epoch)]: self.epochs - epoch for epoch in (0, *self.unfreeze_epochs)}

    def unfrozen_at(self, epoch: int) -> int:
        """The number of unfrozen stages in an epoch, without the head."""
        return sum(unfreeze_epoch <= epoch for unfreeze_epoch in self.unfreeze_epochs)


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of one epoch: losses in nats, learning rates by stage, all others 0..1.

    Those that begin with ``val_`` are measured on images held back from training, such as the test images of a fold;
    None if there are none. ``val_loss`` is the plain cross-entropy, whichever loss was minimised.
    """

    train_loss: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_macro_f1: float | None = None
    val_auroc: float | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_predictions(
        cls, train_loss: float, predictions: Predictions | None, learning_rates: dict[str, float]
    ) -> EpochMetrics:
        """The metrics of an epoch, given its predictions on the validation images if there are any."""
        if predictions is None:
            return cls(train_loss, learning_rates=learning_rates)
        return cls(
            train_loss,
            predictions.loss,
            predictions.accuracy,
            predictions.macro_f1,
            predictions.auroc,
            learning_rates,
        )

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """The metrics by their names in MLflow."""
        learning_rates = {f"{prefix}/lr_{stage}": lr for stage, lr in self.learning_rates.items()}
        names = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1", "val_auroc")
        values = {name: getattr(self, name) for name in names}
        return {f"{prefix}/{name}": value for name, value in values.items() if value is not None} | learning_rates


def with_validation(trained: list[EpochMetrics], validated: list[EpochMetrics]) -> list[EpochMetrics]:
    """The epochs of a training without validation images, with the validation metrics of others like it."""
    return [
        replace(other, train_loss=epoch.train_loss, learning_rates=epoch.learning_rates)
        for epoch, other in zip(trained, validated, strict=False)
    ]


OnEpochEnd = Callable[[Phase, int, EpochMetrics], None]
