"""Phases of training, and the metrics of their epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from graft.config.training import FineTuneConfig, LoraConfig, WarmUpConfig
from graft.evaluation.metrics import Predictions

PhaseName = Literal["warmup", "finetune"]  # phase names: the groups of their metrics in MLflow
WARM_UP: Final = "warmup"
FINE_TUNE: Final = "finetune"
CONFIG_SECTIONS = {WARM_UP: "training.warm_up", FINE_TUNE: "training.fine_tune"}


@dataclass(frozen=True)
class Phase:
    """One phase of training: its length, its learning rates, and when each stage is unfrozen.

    The head trains at ``learning_rate``, each stage toward the input at ``layer_decay`` times the rate of the next.
    ``unfreeze_epochs`` holds the epoch at which each stage is unfrozen, from the output toward the input.

    With a ``patience``, the best epoch's weights are the result, and training stops after that many epochs without
    a better one. With ``None``, the last epoch's are: a head is best once its learning rate has decayed, and
    choosing among its epochs by few validation images would mostly select noise.
    """

    name: PhaseName
    epochs: int
    learning_rate: float
    layer_decay: float = 1.0
    patience: int | None = None
    unfreeze_epochs: tuple[int, ...] = ()
    lora: LoraConfig | None = None

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
            config.patience,
            unfreeze_epochs,
            config.lora,
        )

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

    ``val_loss`` is the plain cross-entropy, whichever loss was minimised.
    """

    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    val_auroc: float
    learning_rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_predictions(
        cls, train_loss: float, predictions: Predictions, learning_rates: dict[str, float]
    ) -> EpochMetrics:
        """The metrics of an epoch, given its predictions on the validation images."""
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
        return {f"{prefix}/{name}": getattr(self, name) for name in names} | learning_rates

    def rank(self, select_by: str) -> tuple[float, float]:
        """Sorts epochs, the best last: by the metric, and on a tie by the validation loss."""
        return -self.val_loss if select_by == "loss" else getattr(self, f"val_{select_by}"), -self.val_loss


OnEpochEnd = Callable[[Phase, int, EpochMetrics], None]
