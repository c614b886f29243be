"""Progress of a phase: a bar on a terminal, one log line per epoch elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from tqdm import tqdm

from graft.training.history import EpochMetrics, Phase

logger = logging.getLogger(__name__)


class ProgressBar:
    """Shows epoch, loss, validation metrics, the head's learning rate, and the remaining time."""

    def __init__(self, phase: Phase, steps_per_epoch: int, epochs_done: int) -> None:
        self.phase = phase
        self.epochs_done = self.epochs_before = epochs_done
        self.started = time.monotonic()
        self.metric = ""
        self.bar = tqdm(
            total=phase.last_epoch * steps_per_epoch, initial=epochs_done * steps_per_epoch, unit="batch",
            desc=phase.name, disable=None, leave=False, dynamic_ncols=True,
        )  # fmt: skip

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.bar.close()

    def update(self, loss: float, lr: float) -> None:
        """Advance by one batch."""
        self.bar.set_description_str(f"{self.phase.name} {self.epochs_done + 1}/{self.phase.last_epoch}", refresh=False)
        self.bar.set_postfix_str(f"loss {loss:.3f}{self.metric}, lr {lr:.1e}", refresh=False)
        self.bar.update()

    def end_epoch(self, metrics: EpochMetrics) -> None:
        """Report the metrics of an epoch."""
        self.epochs_done += 1
        self.metric = ""
        if metrics.val_accuracy is not None:
            self.metric = f", validation accuracy {metrics.val_accuracy:.3f}, macro-F1 {metrics.val_macro_f1:.3f}"
        if not self.bar.disable:
            return
        seconds_each = (time.monotonic() - self.started) / (self.epochs_done - self.epochs_before)
        logger.info(
            "%s %d/%d: loss %.3f%s, lr %.1e, %.0f s left",
            self.phase.name, self.epochs_done, self.phase.last_epoch, metrics.train_loss, self.metric,
            next(iter(metrics.learning_rates.values())), seconds_each * (self.phase.last_epoch - self.epochs_done),
        )  # fmt: skip
