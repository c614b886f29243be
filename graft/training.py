"""The training loop, the same for warm-up and fine-tuning: only what is frozen differs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm import tqdm

from graft.backbones import named_stage_parameters
from graft.config import FineTuneConfig, LoopConfig, WarmUpConfig
from graft.datasets import Batch, ImageSource, evaluation_batches, training_batches
from graft.errors import TrainingError
from graft.freezing import freeze_all_but, frozen_fingerprint, prove_unmoved, train_mode
from graft.metrics import Predictions
from graft.seeds import derive_seed, seeded
from graft.transforms import for_training, normalise

WARM_UP_SHARE = 0.1


@dataclass(frozen=True)
class Phase:
    """One phase of training: what thaws, how long, how fast.

    The head learns at ``learning_rate``; each stage toward the input ``stage_decay`` times slower than the
    next. The epoch with the best macro-F1 counts, and training ends after ``patience`` epochs without a better
    one; with a patience of ``None`` the last epoch counts: a head is best where its rate has come to rest, and
    few validation images choose an epoch by luck.
    """

    name: str
    epochs: int
    learning_rate: float
    unfrozen_stages: int = 0
    stage_decay: float = 1.0
    patience: int | None = None

    @classmethod
    def warm_up(cls, config: WarmUpConfig) -> Phase:
        """The head alone."""
        return cls("warmup", config.epochs, config.learning_rate)

    @classmethod
    def fine_tune(cls, config: FineTuneConfig) -> Phase:
        """The head and the last stages."""
        return cls(
            "finetune",
            config.epochs,
            config.learning_rate,
            config.unfrozen_stages,
            config.stage_decay,
            config.patience,
        )


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch gave. Losses are mean cross-entropies in nats; the others are 0..1."""

    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    learning_rates: dict[str, float] = field(default_factory=dict)

    def named(self, prefix: str) -> dict[str, float]:
        """The metrics under their names in MLflow."""
        rates = {f"{prefix}/lr_{stage}": rate for stage, rate in self.learning_rates.items()}
        own = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1")
        return {f"{prefix}/{name}": getattr(self, name) for name in own} | rates


@dataclass(frozen=True)
class Trained:
    """The weights of the epoch that counts (on a tie of macro-F1, the lower loss), and all epochs' metrics."""

    model: nn.Module
    history: list[EpochMetrics]
    best_epoch: int


@dataclass(frozen=True)
class Images:
    """The images of one training: rows with ``path, label, sha256``."""

    source: ImageSource
    train: pd.DataFrame
    validation: pd.DataFrame


OnEpochEnd = Callable[[Phase, int, EpochMetrics], None]


def train(
    model: nn.Module, phase: Phase, loop: LoopConfig, images: Images, seed: int, on_epoch_end: OnEpochEnd
) -> Trained:
    """Train a phase on top of what the model holds; the given model is left as it was.

    Raises ``TrainingError`` where the loss is not finite, or where frozen weights moved.
    """
    model = copy.deepcopy(model).to(device()).to(memory_format=torch.channels_last)
    trainable = freeze_all_but(model, phase.unfrozen_stages)
    frozen = frozen_fingerprint(model)
    batches = _batches(loop, images, derive_seed(seed, phase.name))
    optimizer = _optimizer(model, trainable, phase, loop)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_then_cosine(phase.epochs * len(batches)))
    history: list[EpochMetrics] = []
    best, best_weights = 0, copy.deepcopy(model.state_dict())
    for epoch in range(phase.epochs):
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        train_mode(model, trainable)
        with seeded(derive_seed(seed, phase.name, epoch)):
            loss = train_one_epoch(model, batches, optimizer, schedule, loop, images.source)
        metrics = _epoch_metrics(loss, evaluate(model, images.source, images.validation), rates)
        history.append(metrics)
        on_epoch_end(phase, epoch, metrics)
        if phase.patience is None or epoch == 0 or _rank(metrics) > _rank(history[best]):
            best, best_weights = epoch, copy.deepcopy(model.state_dict())
        elif epoch - best >= phase.patience:
            break
    prove_unmoved(model, frozen)
    model.load_state_dict(best_weights)
    return Trained(model.cpu().eval(), history, best)


def train_one_epoch(
    model: nn.Module,
    batches: DataLoader[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loop: LoopConfig,
    source: ImageSource,
) -> float:
    """One pass over the training images; returns the mean loss in nats."""
    total, count = 0.0, 0
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for images, labels in tqdm(batches, desc="Training", unit="batch", disable=None, leave=False):
        logits = model(_on_device(images, source))
        loss = functional.cross_entropy(logits, labels.to(device()), label_smoothing=loop.label_smoothing)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                "the loss is not finite; lower learning_rate under training.warm_up or .fine_tune."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trainable, loop.gradient_clip)
        optimizer.step()
        schedule.step()
        total, count = total + loss.item() * len(labels), count + len(labels)
    return total / count


@torch.inference_mode()
def evaluate(model: nn.Module, source: ImageSource, rows: pd.DataFrame) -> Predictions:
    """What a model says of these images, as the exported model would see them."""
    model = model.to(device()).eval()
    logits, labels = [], []
    batches = evaluation_batches(source, rows)
    for images, targets in tqdm(batches, desc="Evaluating", unit="batch", disable=None, leave=False):
        logits.append(model(_on_device(images, source)).float().cpu().numpy())
        labels.append(targets.numpy())
    return Predictions(list(rows["path"]), np.concatenate(labels), np.concatenate(logits), source.classes)


def device() -> torch.device:
    """The fastest device here: CUDA, Apple's, or the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def _on_device(images: Tensor, source: ImageSource) -> Tensor:
    moved = images.to(device(), non_blocking=True)
    return normalise(moved, source.preprocessing).contiguous(memory_format=torch.channels_last)


def _batches(loop: LoopConfig, images: Images, seed: int) -> DataLoader[Batch]:
    transform = for_training(loop.augmentation, loop.horizontal_flip, images.source.preprocessing)
    return training_batches(images.source, images.train, transform, loop.batch_size, seed)


def _optimizer(model: nn.Module, trainable: list[str], phase: Phase, loop: LoopConfig) -> torch.optim.AdamW:
    """AdamW with a rate for each stage, and no weight decay on norms and biases (one-dimensional weights)."""
    groups: list[dict[str, object]] = []
    for distance, stage in enumerate(reversed(trainable)):
        rate = phase.learning_rate * phase.stage_decay**distance
        parameters = [value for _, value in named_stage_parameters(model, stage)]
        for decays in (True, False):
            part = [value for value in parameters if (value.ndim > 1) == decays]
            decay = loop.weight_decay if decays else 0.0
            if part:
                groups.append({"params": part, "lr": rate, "weight_decay": decay, "name": stage})
    return torch.optim.AdamW(groups)


def _warm_up_then_cosine(steps: int) -> Callable[[int], float]:
    """A factor of the learning rate: up a line over the first tenth, then down a cosine to nearly nothing."""
    rising = max(1, round(steps * WARM_UP_SHARE))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))

    return factor


def _epoch_metrics(train_loss: float, said: Predictions, rates: dict[str, float]) -> EpochMetrics:
    loss = functional.cross_entropy(torch.from_numpy(said.logits), torch.from_numpy(said.labels)).item()
    return EpochMetrics(train_loss, loss, said.accuracy, said.macro_f1, rates)


def _rank(metrics: EpochMetrics) -> tuple[float, float]:
    return metrics.val_macro_f1, -metrics.val_loss
