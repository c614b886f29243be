"""Checks of the config's ``training`` section against the backbone and this machine."""

from __future__ import annotations

from graft.compute.devices import Compute, check_compiler
from graft.config.parameters import ModelConfig
from graft.config.training import TrainingConfig
from graft.errors import ConfigError
from graft.models.backbones import count_stages, has_batch_norms
from graft.models.lora import import_peft


def check_training_config(model: ModelConfig, training: TrainingConfig) -> None:
    """Raise ``ConfigError`` for settings that this backbone or this machine does not support."""
    fine_tune, available = training.fine_tune, count_stages(model)
    for key, requested in (
        ("unfrozen_stages", fine_tune.unfrozen_stages or 0),
        ("unfreeze_epochs", len(fine_tune.unfreeze_epochs or ())),
    ):
        if requested > available:
            raise ConfigError(
                f"training.fine_tune.{key} unfreezes {requested} stages, but {model.architecture} has {available}; "
                f"give at most {available}."
            )
    if fine_tune.lora:
        import_peft()
    learn_statistics = training.batch_norm == "adapt" or (
        training.batch_norm == "frozen_stages" and training.strategy != "head_only" and not fine_tune.lora
    )
    if training.batch_size == 1 and learn_statistics and has_batch_norms(model):
        raise ConfigError(
            f"training.batch_size is 1, and the batch norms of {model.architecture} cannot learn statistics from "
            f"one image; give 2 or more, or set training.batch_norm to all_frozen."
        )
    Compute.from_config(training.compute)
    check_compiler(training.compute)
