"""The training loop, the same for warm-up and fine-tuning: only what thaws, and when, differs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from graft.compute.devices import Compute, enough_memory
from graft.inputs.datasets import Images
from graft.learning.guards import (
    not_finite,
    require_calm,
    require_learned,
    require_remembered,
    require_varied,
)
from graft.learning.history import EpochMetrics, OnEpochEnd, Phase
from graft.learning.learner import Learner
from graft.learning.metrics import Predictions
from graft.learning.objective import Mix, Objective, mixing
from graft.learning.progress import ProgressLine
from graft.learning.snapshot import Snapshot, SnapshotFile
from graft.learning.supply import Inputs, Supply
from graft.networks.freezing import FreezeProof, fingerprint
from graft.seeds import derive_seed, seeded
from graft.training_config import LoopConfig


@dataclass(frozen=True)
class Trained:
    """A model with the metrics of the epoch whose weights it has, and how it came to them.

    ``best_epoch`` counts from 1; 0 says that no epoch was better than what the phase began with.
    """

    model: nn.Module
    best: EpochMetrics | None = None
    best_epoch: int = 0
    history: list[EpochMetrics] = field(default_factory=list)
    proofs: list[FreezeProof] = field(default_factory=list)


def train(
    start: Trained, phase: Phase, loop: LoopConfig, images: Images, seed: int, on_epoch_end: OnEpochEnd
) -> Trained:
    """Train a phase on top of what the model holds; the given model is left as it was.

    Each epoch leaves a snapshot in the cache, from which the same call goes on where it was killed; then
    ``on_epoch_end`` hears of all epochs again. Raises ``TrainingError`` where a guard stops training, or where
    something frozen moved.
    """
    seed = derive_seed(seed, phase.name)
    task, supply = Task.of(images, phase, loop), Supply(images, phase, loop, seed)
    learner = Learner(start.model, phase, loop, supply.batches_per_epoch, seed)
    stopping = EarlyStopping(phase, loop.select_by, start.best)
    file = SnapshotFile.of(*_key(start, phase, loop, images, seed))
    file.clear_old()
    if snapshot := file.read():
        learner.restore(snapshot)
        stopping.repeat(snapshot.history)
    if not stopping.finished:
        with learner.compute.running():
            require_varied(supply.at(learner).sample(), "the features that reach the head")
    for epoch, metrics in enumerate(stopping.history):
        on_epoch_end(phase, epoch, metrics)
    progress = ProgressLine(phase, supply.batches_per_epoch, len(stopping.history))
    with progress as line, enough_memory(loop.batch_size), learner.compute.running():
        while not stopping.finished:
            epoch = len(stopping.history)
            learner.begin(epoch)
            with seeded(derive_seed(seed, epoch)):
                loss = train_one_epoch(learner, task, supply.at(learner), epoch, line)
            said = supply.at(learner).judge()
            learner.frozen.prove(phase.name)
            require_varied(torch.from_numpy(said.logits), "the model's outputs")
            metrics = EpochMetrics.of(loss, said, learner.rates)
            task.judge(said, metrics, start.best, last=epoch + 1 == phase.epochs)
            if stopping.note(metrics):
                learner.keep()
            state = learner.scaler.state_dict()
            file.write(Snapshot(stopping.history, learner.tensors(), learner.proofs, state, stopping.finished))
            line.epoch(metrics)
            on_epoch_end(phase, epoch, metrics)
    return Trained(learner.finish(), stopping.best, stopping.best_epoch, stopping.history, learner.proofs)


def train_one_epoch(learner: Learner, task: Task, inputs: Inputs, epoch: int, line: ProgressLine) -> float:
    """One pass over the training images; returns the mean loss in nats."""
    total, count = 0.0, 0
    for number, (given, labels, rows) in enumerate(inputs.epoch(epoch), start=1):
        loss = task.loss(inputs, given, labels)
        if not loss.isfinite():
            raise not_finite(loss.item(), task.phase, epoch, list(task.images.train["path"].iloc[rows.numpy()]))
        learner.learn(loss, number)
        line.step(loss.item(), learner.rate)
        total, count = total + loss.item() * len(labels), count + len(labels)
    return total / count


@dataclass(frozen=True)
class Task:
    """What is learned: from which images, mixed how, and what is minimised."""

    images: Images
    phase: Phase
    objective: Objective
    mix: Mix | None

    @classmethod
    def of(cls, images: Images, phase: Phase, loop: LoopConfig) -> Task:
        """The task that a config sets."""
        classes = images.source.classes
        counts = images.train["label"].value_counts().reindex(classes, fill_value=0)
        objective = Objective(loop.loss, list(counts), Compute.of(loop.compute).device)
        return cls(images, phase, objective, mixing(loop.augmentation, len(classes)))

    def loss(self, inputs: Inputs, given: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch in nats, a scalar; raises ``TrainingError`` where its pixels are out of range."""
        compute = inputs.learner.compute
        placed, targets = inputs.place(given), labels.to(compute.device)
        if self.mix:
            placed, targets = self.mix(placed, targets)
        with compute.autocast():
            logits = inputs.forward(placed)
        return self.objective(logits, targets)

    def judge(self, said: Predictions, metrics: EpochMetrics, before: EpochMetrics | None, last: bool) -> None:
        """Look at what an epoch gave; raises ``TrainingError`` where it would be wrong to go on."""
        if before is not None:
            require_remembered(before, metrics, len(said.labels), len(said.classes))
        elif last and not self.phase.thaw_epochs:
            require_learned(said, self.phase)
        if last:
            require_calm(said, self.phase)


@dataclass
class EarlyStopping:
    """The epochs so far, and which of them counts."""

    phase: Phase
    select_by: str
    best: EpochMetrics | None
    best_epoch: int = 0
    history: list[EpochMetrics] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether all epochs have run, or none better is to be expected."""
        done, patience = len(self.history), self.phase.patience
        since = max(self.best_epoch, *self.phase.thaw_epochs, 0)  # what thaws late has its chance
        return done >= self.phase.epochs or (patience is not None and done - since >= patience)

    def note(self, metrics: EpochMetrics) -> bool:
        """Add an epoch; returns whether it is the one that counts now."""
        self.history.append(metrics)
        better = (
            self.phase.patience is None
            or self.best is None
            or metrics.rank(self.select_by) > self.best.rank(self.select_by)
        )
        if better:
            self.best, self.best_epoch = metrics, len(self.history)
        return better

    def repeat(self, history: list[EpochMetrics]) -> None:
        """Note all epochs of a snapshot."""
        for metrics in history:
            self.note(metrics)


def _key(start: Trained, phase: Phase, loop: LoopConfig, images: Images, seed: int) -> list[str]:
    """All that decides the result of a training."""
    parts = [
        rows[["path", "label", "sha256"]].to_json(orient="values") for rows in (images.train, images.validation)
    ]
    return [
        repr(phase), loop.model_dump_json(), repr(Compute.of(loop.compute)), repr(start.best),
        repr(start.model), fingerprint(start.model.state_dict().items()),
        repr(images.source.preprocessing), *images.source.classes, str(seed), *parts,
    ]  # fmt: skip
