"""Freezing by stages, held against every ``model.train()``, and the proof that what is frozen did not move."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from graft.errors import TrainingError
from graft.networks.backbones import stage_of, stages
from graft.networks.lora import is_adapter

BatchNormPolicy = Literal["frozen_stages", "all_frozen", "adapt"]


@dataclass(frozen=True)
class FreezeProof:
    """The SHA-256 of all that was frozen, the same before and after; ``entries`` says of how many tensors."""

    phase: str
    frozen_stages: int
    entries: int
    sha256: str


class Frozen:
    """A model with only its head and last stages trainable, until it is released.

    Frozen stages stay in eval mode, whatever calls ``train()`` on the model or on any part of it: their dropout
    is off and their batch norms keep their statistics. ``batch_norm`` says which other batch norms do.
    """

    def __init__(self, model: nn.Module, unfrozen_stages: int, batch_norm: BatchNormPolicy) -> None:
        self.model = model
        self.trainable = freeze_all_but(model, unfrozen_stages)
        self.handles: list[RemovableHandle] = []
        self._held = set()
        for name, module in model.named_modules():
            if name and stays_in_eval(module, stage_of(name) in self.trainable, batch_norm):
                self._held.add(name)
                self.handles.append(module.register_forward_pre_hook(_eval_mode))
        self.before = self.fingerprint()

    def fingerprint(self) -> str:
        """SHA-256 of all frozen parameters and of the statistics of all batch norms that keep theirs."""
        return fingerprint(self._entries())

    def release(self, phase: str) -> FreezeProof:
        """Let go; raises ``TrainingError`` where anything frozen is not what it was."""
        for handle in self.handles:
            handle.remove()
        return self.prove(phase)

    def prove(self, phase: str) -> FreezeProof:
        """The proof that all is what it was; raises ``TrainingError`` where it is not."""
        after = self.fingerprint()
        if after != self.before:
            raise TrainingError(
                f"frozen weights or batch-norm statistics changed during {phase} "
                f"({self.before[:12]} became {after[:12]}); this is a bug of Graft."
            )
        names = stages(self.model)
        return FreezeProof(phase, len(names) - len(self.trainable), len(self._entries()), after)

    def _entries(self) -> list[tuple[str, Tensor]]:
        frozen = [(name, value) for name, value in self.model.named_parameters() if not value.requires_grad]
        buffers = self.model.named_buffers()
        return [*frozen, *((name, value) for name, value in buffers if name.rpartition(".")[0] in self._held)]


def freeze_all_but(model: nn.Module, unfrozen_stages: int) -> list[str]:
    """Leave the head and the last ``unfrozen_stages`` stages trainable; returns their names, the head last.

    Of a stage with low-rank adapters, these alone are trainable.
    """
    names = stages(model)
    backbone = names[:-1]
    if unfrozen_stages > len(backbone):
        raise TrainingError(
            f"training.fine_tune asks for {unfrozen_stages} unfrozen stages, but the backbone has "
            f"{len(backbone)}; lower it."
        )
    trainable = [*backbone[len(backbone) - unfrozen_stages :], "head"]
    adapted = any(is_adapter(name) for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        moves = not adapted or stage_of(name) == "head" or is_adapter(name)
        parameter.requires_grad_(stage_of(name) in trainable and moves)
    return trainable


def stays_in_eval(module: nn.Module, trainable: bool, batch_norm: BatchNormPolicy) -> bool:
    """Whether a module is held in eval mode: all of a frozen stage is, and batch norms as the policy says."""
    if not isinstance(module, _BatchNorm):
        return not trainable
    if is_folded(module) or batch_norm == "all_frozen":
        return True
    return batch_norm == "frozen_stages" and not trainable


def is_folded(norm: _BatchNorm) -> bool:
    """Whether a batch norm was folded into its convolution: it shifts, but its statistics are nobody's.

    Such weights come from quantisation-aware training. Batch statistics would undo what they learned.
    """
    if norm.running_mean is None or norm.running_var is None or norm.bias is None:
        return False
    untouched = not norm.running_mean.any() and bool(((norm.running_var - 1).abs() <= norm.eps * 1.1).all())
    return untouched and bool(norm.bias.any())


def fingerprint(entries: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name, value in entries:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _eval_mode(module: nn.Module, _: Any) -> None:  # noqa: ANN401  what a hook is given
    module.training = False
