"""Frozen weights and statistics do not change, whatever calls ``train()``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graft.config.parameters import ModelConfig
from graft.errors import TrainingError
from graft.models.backbones import build_model
from graft.models.freezing import FrozenStages, freeze_all_but, is_folded
from graft.models.stages import stage_of

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
IMAGES = torch.rand(4, 3, 48, 48)


@pytest.fixture
def model() -> nn.Module:
    return build_model(MODEL, 10, seed=0)


def test_release_detects_changed_frozen_weight(model: nn.Module) -> None:
    frozen = FrozenStages(model, 1, "frozen_stages")
    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    with pytest.raises(TrainingError, match="changed during warmup"):
        frozen.release("warmup")


def test_release_detects_changed_batch_norm_statistics(model: nn.Module) -> None:
    frozen = FrozenStages(model, 1, "frozen_stages")
    model.get_buffer("features.0.1.running_mean").add_(1e-6)
    with pytest.raises(TrainingError, match="statistics changed"):
        frozen.release("warmup")


def test_release_allows_changed_trainable_weights(model: nn.Module) -> None:
    frozen = FrozenStages(model, 1, "frozen_stages")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if stage_of(name) in frozen.trainable:
                value.add_(1.0)
    digest = frozen.release("finetune")
    assert (digest.frozen_stages, digest.sha256) == (12, frozen.initial_digest)


@pytest.mark.parametrize("name", ["", "features", "features.3", "features.3.block", "features.0.1"])
def test_frozen_statistics_do_not_change_after_train_on_any_submodule(model: nn.Module, name: str) -> None:
    frozen = FrozenStages(model, 2, "frozen_stages")
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.eval()
    model.get_submodule(name).train()
    model(IMAGES)
    changed = {stage_of(key) for key, value in model.named_buffers() if not torch.equal(before[key], value)}
    assert changed == ({"features.11", "features.12"} if name in ("", "features") else set())
    frozen.release("finetune")


def test_frozen_dropout_is_off() -> None:
    model = build_model(ModelConfig(architecture="vit_b_32", weights="none"), 2, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    FrozenStages(model, 0, "frozen_stages")
    features: list[torch.Tensor] = []
    model.get_submodule("heads").register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(*features)


def test_released_model_updates_statistics_again(model: nn.Module) -> None:
    FrozenStages(model, 0, "all_frozen").release("warmup")
    before = model.get_buffer("features.0.1.running_mean").clone()
    model.train()(IMAGES)
    assert not torch.equal(before, model.get_buffer("features.0.1.running_mean"))


def test_adapt_policy_updates_all_statistics_but_no_frozen_weight(model: nn.Module) -> None:
    frozen = FrozenStages(model, 0, "adapt")
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()(IMAGES)
    assert not any(torch.equal(before[name], value) for name, value in model.named_buffers())
    frozen.release("warmup")


def test_is_folded_requires_a_bias_and_initial_statistics() -> None:
    norm = nn.BatchNorm2d(3)
    assert not is_folded(norm)  # its bias is 0
    nn.init.constant_(norm.bias, 0.5)
    assert is_folded(norm)
    norm.running_var = torch.full((3,), 1 - norm.eps)  # as in some files, so that variance and epsilon add up to 1
    assert is_folded(norm)
    norm.running_mean = torch.ones(3)
    assert not is_folded(norm)


def test_freeze_all_but_rejects_more_stages_than_the_backbone_has(model: nn.Module) -> None:
    with pytest.raises(TrainingError, match=r"asks for 99 unfrozen stages, but the backbone has 13"):
        freeze_all_but(model, 99)
