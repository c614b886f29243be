"""Freezes stages, whatever calls ``model.train()``, and verifies by digest that nothing frozen changed."""

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
from graft.models.lora import is_adapter
from graft.models.stages import stage_names, stage_of

BatchNormPolicy = Literal["frozen_stages", "all_frozen", "adapt"]


@dataclass(frozen=True)
class FrozenDigest:
    """SHA-256 of everything that was frozen in a phase, verified to be unchanged; ``entries`` counts the tensors."""

    phase: str
    frozen_stages: int
    entries: int
    sha256: str


class FrozenStages:
    """Freezes all of a model but its head and last stages, until released.

    Frozen stages stay in eval mode even if ``train()`` is called on the model or on any part of it: their dropout is
    off. ``batch_norm`` decides which batch norms keep their running statistics: those of frozen stages, all of them,
    or with ``adapt`` none; folded ones always do.
    """

    def __init__(self, model: nn.Module, unfrozen_stages: int, batch_norm: BatchNormPolicy) -> None:
        self.model = model
        self.trainable = freeze_all_but(model, unfrozen_stages)
        self._handles: list[RemovableHandle] = []
        self._eval_modules = set()
        for name, module in model.named_modules():
            if name and stays_in_eval(module, stage_of(name) in self.trainable, batch_norm):
                self._eval_modules.add(name)
                self._handles.append(module.register_forward_pre_hook(_eval_mode))
        self.initial_digest = self.digest()

    def digest(self) -> str:
        """SHA-256 of all frozen parameters, and of the buffers of all modules that stay in eval mode."""
        return tensor_digest(self._entries())

    def release(self, phase: str) -> FrozenDigest:
        """Remove the hooks that keep modules in eval mode; returns and raises as ``verify`` does."""
        for handle in self._handles:
            handle.remove()
        return self.verify(phase)

    def verify(self, phase: str) -> FrozenDigest:
        """The digest of everything frozen; raises ``TrainingError`` if it changed since the start."""
        digest = self.digest()
        if digest != self.initial_digest:
            raise TrainingError(
                f"frozen weights or batch-norm statistics changed during {phase} "
                f"({self.initial_digest[:12]} became {digest[:12]}); this is a bug of Graft."
            )
        names = stage_names(self.model)
        return FrozenDigest(phase, len(names) - len(self.trainable), len(self._entries()), digest)

    def _entries(self) -> list[tuple[str, Tensor]]:
        frozen = [(name, value) for name, value in self.model.named_parameters() if not value.requires_grad]
        buffers = self.model.named_buffers()
        return [
            *frozen,
            *((name, value) for name, value in buffers if name.rpartition(".")[0] in self._eval_modules),
        ]


def freeze_all_but(model: nn.Module, unfrozen_stages: int) -> list[str]:
    """Make only the head and the last ``unfrozen_stages`` stages trainable; returns their names, the head last.

    In a model with LoRA adapters, only adapters and head are trainable. Raises ``TrainingError`` if the backbone has
    fewer stages.
    """
    names = stage_names(model)
    backbone = names[:-1]
    if unfrozen_stages > len(backbone):
        raise TrainingError(
            f"training.fine_tune asks for {unfrozen_stages} unfrozen stages, but the backbone has "
            f"{len(backbone)}; lower it."
        )
    trainable = [*backbone[len(backbone) - unfrozen_stages :], "head"]
    adapted = any(is_adapter(name) for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        stage = stage_of(name)
        parameter.requires_grad_(stage in trainable and (not adapted or stage == "head" or is_adapter(name)))
    return trainable


def stays_in_eval(module: nn.Module, trainable: bool, batch_norm: BatchNormPolicy) -> bool:
    """Whether a module stays in eval mode: batch norms by the policy, any other module if its stage is frozen."""
    if not isinstance(module, _BatchNorm):
        return not trainable
    if is_folded(module) or batch_norm == "all_frozen":
        return True
    return batch_norm == "frozen_stages" and not trainable


def is_folded(norm: _BatchNorm) -> bool:
    """Whether a batch norm was folded into its convolution: its statistics are the initial 0 and 1, its bias is not 0.

    Such weights come from quantisation-aware training. Batch statistics would undo what they learned.
    """
    if norm.running_mean is None or norm.running_var is None or norm.bias is None:
        return False
    # Some files store 1 - eps, so that variance and epsilon add up to 1.
    initial = not norm.running_mean.any() and bool(((norm.running_var - 1).abs() <= norm.eps * 1.1).all())
    return initial and bool(norm.bias.any())


def tensor_digest(entries: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name, value in entries:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _eval_mode(module: nn.Module, _: Any) -> None:  # noqa: ANN401  a hook's inputs
    module.training = False
