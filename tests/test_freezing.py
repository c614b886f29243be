"""What is frozen stays as it was, whoever calls ``train()``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graft.config import ModelConfig
from graft.errors import TrainingError
from graft.networks.backbones import build, stage_of
from graft.networks.freezing import Frozen, freeze_all_but, is_folded

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")
IMAGES = torch.rand(4, 3, 48, 48)


@pytest.fixture
def model() -> nn.Module:
    return build(MODEL, 10, seed=0)


def test_a_frozen_weight_that_moved_is_caught(model: nn.Module) -> None:
    frozen = Frozen(model, 1, "frozen_stages")
    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    with pytest.raises(TrainingError, match="changed during warmup"):
        frozen.release("warmup")


def test_a_statistic_that_moved_is_caught(model: nn.Module) -> None:
    frozen = Frozen(model, 1, "frozen_stages")
    model.get_buffer("features.0.1.running_mean").add_(1e-6)
    with pytest.raises(TrainingError, match="statistics changed"):
        frozen.release("warmup")


def test_what_is_trainable_may_move(model: nn.Module) -> None:
    frozen = Frozen(model, 1, "frozen_stages")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if stage_of(name) in frozen.trainable:
                value.add_(1.0)
    proof = frozen.release("finetune")
    assert (proof.frozen_stages, proof.sha256) == (12, frozen.before)


@pytest.mark.parametrize("part", ["", "features", "features.3", "features.3.block", "features.0.1"])
def test_no_call_of_train_at_any_depth_moves_frozen_statistics(model: nn.Module, part: str) -> None:
    frozen = Frozen(model, 2, "frozen_stages")
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.eval()
    model.get_submodule(part).train()
    model(IMAGES)
    moved = {stage_of(name) for name, value in model.named_buffers() if not torch.equal(before[name], value)}
    assert moved == ({"features.11", "features.12"} if part in ("", "features") else set())
    frozen.release("finetune")


def test_frozen_dropout_is_off() -> None:
    model = build(ModelConfig(architecture="vit_b_32", weights="none"), 2, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    Frozen(model, 0, "frozen_stages")
    features: list[torch.Tensor] = []
    model.get_submodule("heads").register_forward_pre_hook(lambda _, given: features.append(given[0]))
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(*features)


def test_once_released_everything_may_learn_again(model: nn.Module) -> None:
    Frozen(model, 0, "all_frozen").release("warmup")
    before = model.get_buffer("features.0.1.running_mean").clone()
    model.train()(IMAGES)
    assert not torch.equal(before, model.get_buffer("features.0.1.running_mean"))


def test_adapting_lets_all_statistics_move_and_no_frozen_weight(model: nn.Module) -> None:
    frozen = Frozen(model, 0, "adapt")
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()(IMAGES)
    assert not any(torch.equal(before[name], value) for name, value in model.named_buffers())
    frozen.release("warmup")


def test_folded_batch_norms_keep_statistics_that_are_nobodys() -> None:
    norm = nn.BatchNorm2d(3)
    assert not is_folded(norm)  # fresh: it shifts by nothing
    nn.init.constant_(norm.bias, 0.5)
    assert is_folded(norm)
    norm.running_var = torch.full((3,), 1 - norm.eps)  # as some write it, so that variance and epsilon make 1
    assert is_folded(norm)
    norm.running_mean = torch.ones(3)
    assert not is_folded(norm)


def test_more_stages_than_there_are_are_refused(model: nn.Module) -> None:
    with pytest.raises(TrainingError, match=r"asks for 99 unfrozen stages, but the backbone has 13"):
        freeze_all_but(model, 99)
