"""What a phase of training is asked, and what each of its epochs gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from graft.learning.metrics import Predictions
from graft.training_config import FineTuneConfig, LoraConfig, WarmUpConfig


@dataclass(frozen=True)
class Phase:
    """One phase of training: how long, how fast, what thaws when.

    The head learns at ``learning_rate``; each stage toward the input ``stage_decay`` times slower than the next.
    ``thaw_epochs`` holds the epoch at which each stage thaws, from the output toward the input. The best epoch
    counts, and training ends after ``patience`` epochs without a better one; with a patience of ``None`` the last
    epoch counts: a head is best where its rate has come to rest, and few validation images choose by luck.
    """

    name: str
    epochs: int
    learning_rate: float
    stage_decay: float = 1.0
    patience: int | None = None
    thaw_epochs: tuple[int, ...] = ()
    lora: LoraConfig | None = None

    @classmethod
    def warm_up(cls, config: WarmUpConfig) -> Phase:
        """The head alone."""
        return cls("warmup", config.epochs, config.learning_rate)

    @classmethod
    def fine_tune(cls, config: FineTuneConfig, thaw_epochs: tuple[int, ...], rate_factor: float = 1.0) -> Phase:
        """The head and the stages that thaw."""
        rate = config.learning_rate * rate_factor
        return cls("finetune", config.epochs, rate, config.stage_decay, config.patience, thaw_epochs, config.lora)

    @property
    def section(self) -> str:
        """Where the config speaks of it."""
        return {"warmup": "training.warm_up", "finetune": "training.fine_tune"}[self.name]

    def first_moving(self, stages: list[str]) -> str:
        """The first stage that ever thaws, of all from input to output."""
        return stages[-1 - len(self.thaw_epochs)]

    def boundaries(self, stages: list[str]) -> dict[str, int]:
        """Each stage that is ever the first to move, and for how many epochs that may be."""
        return {stages[-1 - self.unfrozen_at(epoch)]: self.epochs - epoch for epoch in (0, *self.thaw_epochs)}

    def unfrozen_at(self, epoch: int) -> int:
        """How many stages are thawed in an epoch, the head not counted."""
        return sum(thaws <= epoch for thaws in self.thaw_epochs)


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch gave. Losses are in nats; the others are 0..1.

    ``val_loss`` is the plain cross-entropy, whatever training minimised.
    """

    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    val_auroc: float
    learning_rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, train_loss: float, said: Predictions, learning_rates: dict[str, float]) -> EpochMetrics:
        """The metrics of an epoch whose model said this of the validation images."""
        return cls(train_loss, said.loss, said.accuracy, said.macro_f1, said.auroc, learning_rates)

    def named(self, prefix: str) -> dict[str, float]:
        """The metrics under their names in MLflow."""
        rates = {f"{prefix}/lr_{stage}": rate for stage, rate in self.learning_rates.items()}
        own = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1", "val_auroc")
        return {f"{prefix}/{name}": getattr(self, name) for name in own} | rates

    def rank(self, select_by: str) -> tuple[float, float]:
        """What is higher for a better epoch: the metric, and on a tie the lower loss."""
        return -self.val_loss if select_by == "loss" else getattr(self, f"val_{select_by}"), -self.val_loss


OnEpochEnd = Callable[[Phase, int, EpochMetrics], None]
