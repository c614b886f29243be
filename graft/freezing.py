"""Freezing by stages, and the proof that what is frozen did not move."""

from __future__ import annotations

import hashlib

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.backbones import stage_of, stages
from graft.errors import TrainingError


def freeze_all_but(model: nn.Module, unfrozen_stages: int) -> list[str]:
    """Leave the head and the last ``unfrozen_stages`` stages trainable; returns their names."""
    names = stages(model)
    backbone = names[:-1]
    if unfrozen_stages > len(backbone):
        raise TrainingError(
            f"training.fine_tune.unfrozen_stages is {unfrozen_stages}, but the backbone has "
            f"{len(backbone)} stages; lower it."
        )
    trainable = [*backbone[len(backbone) - unfrozen_stages :], "head"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(stage_of(name) in trainable)
    return trainable


def train_mode(model: nn.Module, trainable: list[str]) -> None:
    """Put trainable stages in train mode, and every batch norm and frozen stage in eval mode.

    Batch statistics of a few small batches are worse than those that came with the weights, so all batch
    norms keep theirs; those of trainable stages still learn their scale and shift.
    """
    model.eval()
    for name, module in model.named_modules():
        if name and stage_of(name) in trainable and not isinstance(module, _BatchNorm):
            module.training = True


def frozen_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all frozen parameters and all batch-norm statistics."""
    digest = hashlib.sha256()
    frozen = [(name, value) for name, value in model.named_parameters() if not value.requires_grad]
    for name, value in [*frozen, *model.named_buffers()]:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def prove_unmoved(model: nn.Module, before: str) -> None:
    """Raise ``TrainingError`` where frozen parameters or batch-norm statistics are not what they were."""
    if frozen_fingerprint(model) != before:
        raise TrainingError(
            "frozen weights or batch-norm statistics changed during training; this is a bug of Graft."
        )
