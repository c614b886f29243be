"""A model that learns: what thaws when, what a step does, what a snapshot must hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from graft.compute.devices import Compute
from graft.learning.guards import require_trainable
from graft.learning.history import Phase
from graft.learning.optimization import Pace, Thawed, make_optimizer, make_scheduler, stage_rates
from graft.learning.snapshot import Snapshot, optimizer_tensors, restore_optimizer
from graft.networks import lora
from graft.networks.backbones import stages
from graft.networks.freezing import FreezeProof, Frozen, freeze_all_but
from graft.training_config import LoopConfig

RAMP_SHARE = 0.5  # of an epoch, in which the rate of a newly thawed stage climbs


class Learner:
    """A copy of a model, with what is trainable in it, the optimizer for that, and proofs of what was frozen."""

    frozen: Frozen
    optimizer: Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    _rates: list[dict[str, float]]

    def __init__(
        self, model: nn.Module, phase: Phase, loop: LoopConfig, batches_per_epoch: int, seed: int
    ) -> None:
        self.phase, self.loop, self.batches_per_epoch = phase, loop, batches_per_epoch
        self.steps_per_epoch = -(-batches_per_epoch // loop.optimizer.accumulation_steps)
        self.compute = Compute.of(loop.compute)
        model = copy.deepcopy(model)
        if phase.lora:
            lora.inject(model, stages(model)[-1 - len(phase.thaw_epochs) : -1], phase.lora, seed)
        self.model = self.compute.place_model(model)
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.model, dynamic=False) if loop.compute.compile else self.model
        )
        self.average = AveragedModel(self.model, avg_fn=lagging(loop.ema_decay)) if loop.ema_decay else None
        self.scaler = self.compute.scaler()
        self.proofs: list[FreezeProof] = []
        freeze_all_but(self.model, len(phase.thaw_epochs))
        self.moves = [name for name, value in self.model.named_parameters() if value.requires_grad]
        require_trainable(len(self.moves), phase)
        self.kept = self._weights()
        self._thaw(0, None)

    @property
    def judged(self) -> nn.Module:
        """The model that counts: the moving average where one is kept."""
        return self.average.module if self.average else self.model

    @property
    def boundary(self) -> str:
        """The first stage that moves; all before it is frozen."""
        return self.frozen.trainable[0]

    @property
    def rates(self) -> dict[str, float]:
        """The mean learning rate of each trainable stage in this epoch, the head's first."""
        return {stage: sum(each[stage] for each in self._rates) / len(self._rates) for stage in self._rates[0]}

    @property
    def rate(self) -> float:
        """The head's learning rate now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin(self, epoch: int) -> None:
        """Thaw what is due in this epoch, and go into train mode."""
        if epoch > 0 and self.phase.unfrozen_at(epoch) != self.phase.unfrozen_at(epoch - 1):
            self.proofs.append(self.frozen.release(self.phase.name))
            self._thaw(epoch, self.optimizer)
        self.model.train()
        self._rates = []

    def learn(self, loss: Tensor, number: int) -> None:
        """Add a batch's gradient, batches counted from 1 in an epoch; move the weights where it is time to."""
        accumulated = self.loop.optimizer.accumulation_steps
        whole = self.batches_per_epoch // accumulated * accumulated
        self._gather(loss, accumulated if number <= whole else self.batches_per_epoch - whole)
        if number % accumulated == 0 or number == self.batches_per_epoch:
            self._step()

    def learn_at(self, share: float, losses: Iterable[Tensor]) -> float:
        """Move the weights once, at this share of the stages' rates, whatever the schedule says.

        ``losses`` are of as many batches as a step gathers; returns their mean in nats.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["initial_lr"]
        total, count = 0.0, self.loop.optimizer.accumulation_steps
        for loss in losses:
            self._gather(loss, count)
            total += loss.item() / count
        self._step()
        return total

    def _gather(self, loss: Tensor, batches: int) -> None:
        self.scaler.scale(loss / batches).backward()  # type: ignore[no-untyped-call]

    def _step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        trainable = [value for value in self.model.parameters() if value.requires_grad]
        nn.utils.clip_grad_norm_(trainable, self.loop.optimizer.gradient_clip)
        self._rates.append({group["name"]: group["lr"] for group in self.optimizer.param_groups})
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.model)

    def keep(self) -> None:
        """Remember the weights as they are judged now."""
        self.kept = self._weights()

    def finish(self) -> nn.Module:
        """The model with the weights that were kept, on the CPU in eval mode; raises where frozen ones moved."""
        self.proofs.append(self.frozen.release(self.phase.name))
        load(self.model, self.kept)
        model = self.model.cpu().eval()
        if self.phase.lora:
            lora.merge(model)
        return model

    def tensors(self) -> dict[str, Tensor]:
        """All that a snapshot must hold of it."""
        parts = {
            "model": copied(self.model, self.moves), "best": self.kept,
            "optimizer": optimizer_tensors(self.model, self.optimizer),
        }  # fmt: skip
        if self.average:
            count = {"count": self.average.n_averaged.detach().cpu().clone()}
            parts["average"], parts["averaged"] = copied(self.average.module, self.moves), count
        return {f"{part}/{name}": value for part, held in parts.items() for name, value in held.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Stand where a snapshot was taken."""
        self.frozen.release(self.phase.name)
        self._thaw(len(snapshot.history) - 1, None)
        load(self.model, snapshot.part("model"))
        self.kept = snapshot.part("best")
        restore_optimizer(self.model, self.optimizer, snapshot.part("optimizer"))
        if self.average:
            load(self.average.module, snapshot.part("average"))
            self.average.n_averaged.copy_(snapshot.part("averaged")["count"])
        if snapshot.scaler:
            self.scaler.load_state_dict(snapshot.scaler)
        self.scheduler = self._scheduler(len(snapshot.history) * self.steps_per_epoch)
        self.proofs = list(snapshot.proofs)

    def _thaw(self, epoch: int, former: Optimizer | None) -> None:
        policy = "all_frozen" if self.phase.lora else self.loop.batch_norm
        self.frozen = Frozen(self.model, self.phase.unfrozen_at(epoch), policy)
        rates = stage_rates(self.frozen.trainable, self.phase.learning_rate, self.phase.stage_decay)
        self.optimizer = make_optimizer(self.model, rates, self.loop.optimizer, former)
        self.scheduler = self._scheduler(epoch * self.steps_per_epoch)

    def _scheduler(self, step: int) -> torch.optim.lr_scheduler.LambdaLR:
        since = dict(zip(reversed(stages(self.model)[:-1]), self.phase.thaw_epochs, strict=False))
        thawed = [Thawed(stage, since.get(stage, 0) * self.steps_per_epoch) for stage in self.frozen.trainable]
        ramp = max(1, round(RAMP_SHARE * self.steps_per_epoch))
        pace = Pace(self.loop.optimizer, self.phase.epochs * self.steps_per_epoch, ramp)
        return make_scheduler(self.optimizer, pace, thawed, step)

    def _weights(self) -> dict[str, Tensor]:
        return copied(self.judged, self.moves)


def lagging(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """A moving average that lags less at first, as TensorFlow's does: or it would stay near its beginning."""

    def average(held: Tensor, now: Tensor, count: Tensor | int) -> Tensor:
        return held.lerp(now, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return average


def copied(model: nn.Module, parameters: list[str]) -> dict[str, Tensor]:
    """Copies on the CPU of these parameters and of all buffers."""
    named = dict(model.named_parameters())
    entries = {name: named[name] for name in parameters} | dict(model.named_buffers())
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in entries.items()
    }


def load(model: nn.Module, entries: dict[str, Tensor]) -> None:
    """Put copies back, each into the place and the layout that it came from."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, value in entries.items():
            named[name].copy_(value)
