"""The training loop. Head warm-up and fine-tuning share it; they differ in what is unfrozen, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

from graft.compute.devices import Compute, oom_as_training_error
from graft.config.training import TrainLoopConfig
from graft.evaluation.metrics import Predictions
from graft.features.loaders import TrainingImages
from graft.models.freezing import FrozenDigest, tensor_digest
from graft.seeds import derive_seed, seeded
from graft.training.batch_sources import BatchSource, BatchSources
from graft.training.guards import check_collapsed, check_epoch, non_finite_loss_error
from graft.training.history import EpochMetrics, OnEpochEnd, Phase
from graft.training.losses import Criterion
from graft.training.progress import ProgressBar
from graft.training.snapshot import SnapshotFile
from graft.training.trainer import Trainer


@dataclass(frozen=True)
class TrainResult:
    """A trained model, the metrics of its last epoch (None if it is untrained), and the history of its phase.

    ``predictions`` holds those on the validation images after each of ``Phase.milestones``, by the number of epochs.
    ``failure`` says why the phase was abandoned, if it was; the model is then that of its start.
    ``frozen_digests`` prove which weights did not change.
    """

    model: nn.Module
    metrics: EpochMetrics | None = None
    history: list[EpochMetrics] = field(default_factory=list)
    predictions: dict[int, Predictions] = field(default_factory=dict)
    frozen_digests: list[FrozenDigest] = field(default_factory=list)
    failure: str = ""


def train(
    start: TrainResult,
    phase: Phase,
    train_config: TrainLoopConfig,
    images: TrainingImages,
    *,
    seed: int,
    on_epoch_end: OnEpochEnd,
) -> TrainResult:
    """Train one phase, starting from ``start.model``, which is not changed.

    The validation images, of which there may be none, are evaluated after each epoch, and select nothing.
    A killed run continues after its last epoch: each epoch ends with a snapshot in the cache, and a call with the
    same arguments finds it. ``on_epoch_end`` is then called for the earlier epochs again. Raises ``TrainingError``
    if a guard stops training, or if a frozen weight changed.
    """
    seed = derive_seed(seed, phase.name)
    sources = BatchSources(images, phase, train_config, seed)
    criterion = Criterion.from_config(train_config, images)
    trainer = Trainer(start.model, phase, train_config, sources.batches_per_epoch, seed)
    history: list[EpochMetrics] = []
    predictions: dict[int, Predictions] = {}

    # A killed run left a snapshot; its epochs are reported again, so that the log of this run is complete.
    snapshot_file = SnapshotFile.for_key(*_snapshot_key(start, phase, train_config, images, seed))
    snapshot_file.remove_expired_snapshots()
    if snapshot := snapshot_file.read():
        trainer.restore(snapshot)
        history, predictions = snapshot.history, snapshot.predictions(images)
    for epoch, metrics in enumerate(history):
        on_epoch_end(phase, epoch, metrics)

    progress = ProgressBar(phase, sources.batches_per_epoch, len(history))
    with progress, oom_as_training_error(train_config.batch_size), trainer.compute.context():
        # Checked before the first epoch: a backbone that cannot tell these images apart is not worth training.
        if len(history) < phase.last_epoch:
            check_collapsed(sources.prepare(trainer).sample_pre_logits(), "the features that reach the head")
        for epoch in range(len(history), phase.last_epoch):
            trainer.start_epoch(epoch)
            # Unfreezing moves the split toward the input, so each epoch asks for its source again. The first call
            # after a move may fill the disk cache with the features of what is still frozen.
            source = sources.prepare(trainer)
            # Random numbers depend on seed, phase and epoch alone: a resumed run draws the same.
            with seeded(derive_seed(seed, epoch)):
                train_loss = train_one_epoch(trainer, criterion, source, epoch, progress)
            evaluated = source.evaluate()
            # In every epoch, not only at the end: cached features are wrong as soon as a frozen weight changes.
            trainer.frozen.verify(phase.name)
            metrics = EpochMetrics.from_predictions(train_loss, evaluated, trainer.mean_lrs)
            check_epoch(phase, epoch, evaluated, metrics, start.metrics, len(images.dataset.classes))
            history.append(metrics)
            if evaluated and epoch + 1 in phase.milestones:
                predictions[epoch + 1] = evaluated
            # After the guards, so that a run never resumes from a state that they reject.
            snapshot_file.write(trainer.snapshot(history, predictions))
            progress.end_epoch(metrics)
            on_epoch_end(phase, epoch, metrics)
    return TrainResult(trainer.finish(), history[-1], history, predictions, trainer.frozen_digests)


def train_one_epoch(
    trainer: Trainer, criterion: Criterion, source: BatchSource, epoch: int, progress: ProgressBar
) -> float:
    """One pass over the training images; returns the mean loss in nats."""
    total, count = 0.0, 0
    for batch, (inputs, labels, indices) in enumerate(source.epoch(epoch), start=1):
        loss = compute_loss(trainer, criterion, source, inputs, labels)
        loss_value = loss.item()
        if not math.isfinite(loss_value):
            paths = list(source.images.train["path"].iloc[indices.numpy()])
            raise non_finite_loss_error(loss_value, trainer.phase, epoch, paths)
        trainer.backward_and_step(loss, batch)  # steps once enough batches are accumulated
        progress.update(loss_value, trainer.head_lr)
        total, count = total + loss_value * len(labels), count + len(labels)
    return total / count


def compute_loss(trainer: Trainer, criterion: Criterion, source: BatchSource, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mixup, forward pass and loss of a batch; a scalar in nats.

    ``inputs`` are images, or cached features of the frozen layers: ``source`` knows the forward pass from either.
    Raises ``TrainingError`` if pixels are out of range.
    """
    inputs, targets = source.to_device(inputs), labels.to(trainer.compute.device)
    if criterion.mixup:
        inputs, targets = criterion.mixup(inputs, targets)
    with trainer.compute.autocast():
        logits = source.forward(inputs)
    return criterion.loss(logits, targets)


def _snapshot_key(
    start: TrainResult, phase: Phase, train_config: TrainLoopConfig, images: TrainingImages, seed: int
) -> list[str]:
    """Everything that determines the result of a training."""
    columns = ["path", "label", "sha256"]
    return [
        repr(phase),
        train_config.model_dump_json(),
        repr(Compute.from_config(train_config.compute)),
        repr(start.metrics),
        repr(start.model),
        tensor_digest(start.model.state_dict().items()),
        repr(images.dataset.preprocessing),
        *images.dataset.classes,
        str(seed),
        *(records[columns].to_json(orient="values") for records in (images.train, images.validation)),
    ]
