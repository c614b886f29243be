"""A model in training: what is unfrozen, its optimizer and schedule, its state for a snapshot."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from graft.compute.devices import Compute
from graft.config.training import TrainLoopConfig
from graft.evaluation.metrics import Predictions
from graft.models import lora
from graft.models.freezing import FrozenDigest, FrozenStages, freeze_all_but
from graft.models.stages import stage_names
from graft.training.guards import check_trainable
from graft.training.history import EpochMetrics, Phase
from graft.training.optimization import LRSchedule, UnfrozenStage, layer_lrs, make_optimizer, make_scheduler
from graft.training.snapshot import Snapshot, optimizer_tensors, restore_optimizer

RAMP_EPOCHS = 0.5  # length of the linear ramp of a newly unfrozen stage's learning rate


class Trainer:
    """A copy of a model with the state of one training phase."""

    frozen: FrozenStages
    optimizer: Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    _step_lrs: list[dict[str, float]]

    def __init__(
        self, model: nn.Module, phase: Phase, train_config: TrainLoopConfig, batches_per_epoch: int, seed: int
    ) -> None:
        self.phase, self.train_config, self.batches_per_epoch = phase, train_config, batches_per_epoch
        self.steps_per_epoch = -(-batches_per_epoch // train_config.optimizer.accumulation_steps)
        self.compute = Compute.from_config(train_config.compute)
        model = copy.deepcopy(model)
        if phase.lora:
            lora.inject(model, stage_names(model)[-1 - len(phase.unfreeze_epochs) : -1], phase.lora, seed)
        self.model = self.compute.model_to_device(model)
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.model, dynamic=False) if train_config.compute.compile else self.model
        )
        decay = train_config.ema_decay
        self.ema = AveragedModel(self.model, avg_fn=ema_with_warm_up(decay)) if decay else None
        self.scaler = self.compute.scaler()
        self.frozen_digests: list[FrozenDigest] = []
        freeze_all_but(self.model, len(phase.unfreeze_epochs))
        # All that this phase ever trains: only these differ between epochs, so only these are copied.
        self.trainable = [name for name, value in self.model.named_parameters() if value.requires_grad]
        check_trainable(len(self.trainable), phase)
        self._unfreeze(0, None)

    @property
    def eval_model(self) -> nn.Module:
        """The model to evaluate: the moving average of the weights if there is one."""
        return self.ema.module if self.ema else self.model

    @property
    def split_stage(self) -> str:
        """The first trainable stage; everything before it is frozen."""
        return self.frozen.trainable[0]

    @property
    def mean_lrs(self) -> dict[str, float]:
        """The mean learning rate of each trainable stage over this epoch's steps, the head first."""
        steps = self._step_lrs
        return {stage: sum(lrs[stage] for lrs in steps) / len(steps) for stage in steps[0]}

    @property
    def head_lr(self) -> float:
        """The head's current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def start_epoch(self, epoch: int) -> None:
        """Unfreeze the stages that are due, and switch to train mode."""
        if epoch > 0 and self.phase.unfrozen_at(epoch) != self.phase.unfrozen_at(epoch - 1):
            self.frozen_digests.append(self.frozen.release(self.phase.name))
            self._unfreeze(epoch, self.optimizer)
        self.model.train()
        self._step_lrs = []

    def backward_and_step(self, loss: Tensor, batch: int) -> None:
        """Accumulate the gradient of a batch (counted from 1), and step after every ``accumulation_steps`` batches."""
        accumulation = self.train_config.optimizer.accumulation_steps
        # The last step of an epoch may accumulate fewer batches; their mean is over these alone.
        complete = self.batches_per_epoch // accumulation * accumulation
        self._accumulate(loss, accumulation if batch <= complete else self.batches_per_epoch - complete)
        if batch % accumulation == 0 or batch == self.batches_per_epoch:
            self._step()

    def step_at(self, lr_scale: float, losses: Iterable[Tensor]) -> float:
        """One step at ``lr_scale`` times the peak learning rates, ignoring the schedule.

        ``losses`` are those of ``accumulation_steps`` batches; returns their mean in nats.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr_scale * group["initial_lr"]
        mean_loss, count = 0.0, self.train_config.optimizer.accumulation_steps
        for loss in losses:
            self._accumulate(loss, count)
            mean_loss += loss.item() / count
        self._step()
        return mean_loss

    def finish(self) -> nn.Module:
        """The trained model, on the CPU, in eval mode; raises if a frozen weight changed."""
        self.frozen_digests.append(self.frozen.release(self.phase.name))
        if self.ema:
            load_tensors(self.model, copy_tensors(self.ema.module, self.trainable))
        model = self.model.cpu().eval()
        if self.phase.lora:
            lora.merge(model)
        return model

    def snapshot(self, history: list[EpochMetrics], predictions: dict[int, Predictions]) -> Snapshot:
        """The state after the last epoch of ``history``, for ``restore``."""
        logits = {f"logits/{epochs}": torch.from_numpy(kept.logits) for epochs, kept in predictions.items()}
        finished = len(history) == self.phase.last_epoch
        return Snapshot(history, self._tensors() | logits, self.frozen_digests, self.scaler.state_dict(), finished)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, as after its last epoch."""
        self.frozen.release(self.phase.name)
        self._unfreeze(len(snapshot.history) - 1, None)
        load_tensors(self.model, snapshot.group("model"))
        restore_optimizer(self.model, self.optimizer, snapshot.group("optimizer"))
        if self.ema:
            load_tensors(self.ema.module, snapshot.group("average"))
            self.ema.n_averaged.copy_(snapshot.group("averaged")["count"])
        if snapshot.scaler:
            self.scaler.load_state_dict(snapshot.scaler)
        self.scheduler = self._scheduler(len(snapshot.history) * self.steps_per_epoch)
        self.frozen_digests = list(snapshot.frozen_digests)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of a snapshot, on the CPU."""
        groups = {
            "model": copy_tensors(self.model, self.trainable),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
        }
        if self.ema:
            groups["average"] = copy_tensors(self.ema.module, self.trainable)
            groups["averaged"] = {"count": self.ema.n_averaged.detach().cpu().clone()}
        return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}

    def _accumulate(self, loss: Tensor, batches: int) -> None:
        self.scaler.scale(loss / batches).backward()  # type: ignore[no-untyped-call]

    def _step(self) -> None:
        self.scaler.unscale_(self.optimizer)  # before clipping, which compares the gradient with a fixed norm
        trainable = [value for value in self.model.parameters() if value.requires_grad]
        nn.utils.clip_grad_norm_(trainable, self.train_config.optimizer.gradient_clip)
        self._step_lrs.append({group["name"]: group["lr"] for group in self.optimizer.param_groups})
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update_parameters(self.model)

    def _unfreeze(self, epoch: int, previous: Optimizer | None) -> None:
        """Unfreeze the stages that are due; the new optimizer takes over the state of the previous one."""
        policy = "all_frozen" if self.phase.lora else self.train_config.batch_norm
        self.frozen = FrozenStages(self.model, self.phase.unfrozen_at(epoch), policy)
        lrs = layer_lrs(self.frozen.trainable, self.phase.learning_rate, self.phase.layer_decay)
        self.optimizer = make_optimizer(self.model, lrs, self.train_config.optimizer, previous)
        self.scheduler = self._scheduler(epoch * self.steps_per_epoch)

    def _scheduler(self, step: int) -> torch.optim.lr_scheduler.LambdaLR:
        stages = reversed(stage_names(self.model)[:-1])
        unfreeze_epochs = dict(zip(stages, self.phase.unfreeze_epochs, strict=False))
        unfrozen = [
            UnfrozenStage(stage, unfreeze_epochs.get(stage, 0) * self.steps_per_epoch)
            for stage in self.frozen.trainable
        ]
        ramp = max(1, round(RAMP_EPOCHS * self.steps_per_epoch))
        schedule = LRSchedule(self.train_config.optimizer, self.phase.epochs * self.steps_per_epoch, ramp)
        return make_scheduler(self.optimizer, schedule, unfrozen, step)


def ema_with_warm_up(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average whose decay starts lower, as TensorFlow's ``num_updates`` does.

    With the full decay from the first step, the average would stay near the initial weights.
    """

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        return averaged.lerp(current, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return average


def copy_tensors(model: nn.Module, parameters: list[str]) -> dict[str, Tensor]:
    """CPU copies of these parameters and of all buffers, by name."""
    named = dict(model.named_parameters())
    tensors = {name: named[name] for name in parameters} | dict(model.named_buffers())
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def load_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into a model's parameters and buffers, on their device and in their memory layout."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, value in tensors.items():
            named[name].copy_(value)
