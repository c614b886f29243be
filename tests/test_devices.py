"""Unsupported compute settings are rejected before training, and compiling does not change results."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft.compute.devices import oom_as_training_error
from graft.config.parameters import ModelConfig
from graft.config.training import ComputeConfig, OptimizerConfig, TrainingConfig, TrainLoopConfig
from graft.errors import ConfigError, TrainingError
from graft.training.config_checks import check_training_config
from graft.training.history import Phase
from graft.training.losses import ClassificationLoss
from graft.training.trainer import Trainer

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")


class TwoStageModel(nn.Module):
    """Two stages and a head: small, so that it compiles quickly."""

    def __init__(self) -> None:
        super().__init__()
        stages = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 4, 3)]
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.classifier(self.features(images).mean((2, 3))))


def config(**values: Any) -> TrainingConfig:  # noqa: ANN401
    return TrainingConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 1, "batch_norm": "frozen_stages"}, "cannot learn statistics from one image; give 2 or more"),
        ({"batch_size": 1, "batch_norm": "adapt", "strategy": "head_only"}, "cannot learn statistics from one image"),
        (
            {"compute": ComputeConfig(device="cpu", precision="float16")},
            "is 'float16', which only CUDA and MPS support",
        ),
        (
            {"strategy": "last_stages", "fine_tune": {"unfrozen_stages": 99}},
            "unfreezes 99 stages, .* give at most",
        ),
    ],
)
def test_check_training_config_rejects_unsupported_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_training_config(MODEL, config(**values))


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (MODEL, {"batch_norm": "all_frozen"}),
        (MODEL, {"strategy": "head_only"}),
        (MODEL, {"fine_tune": {"lora": {"rank": 2}}}),
        (ModelConfig(architecture="squeezenet1_1", weights="none"), {}),
    ],
)
def test_check_training_config_allows_batch_size_1_if_no_batch_norm_learns(
    model: ModelConfig, values: dict[str, Any]
) -> None:
    check_training_config(model, config(batch_size=1, **values))


def test_check_training_config_reports_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr("torch.compile", lambda _: fail)
    with pytest.raises(ConfigError, match=r"cannot compile .*no working C\+\+ compiler.*set it to false"):
        check_training_config(MODEL, config(compute=ComputeConfig(compile=True)))


def test_enough_memory_tells_which_setting_to_lower() -> None:
    message = r"a batch of 64 images does not fit .* lower training.batch_size"
    with pytest.raises(TrainingError, match=message), oom_as_training_error(64):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_training_gives_the_same_weights_also_after_unfreezing() -> None:
    model, labels = TwoStageModel(), torch.arange(8) % 4
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    phase = Phase("finetune", 2, 0.1, 0.5, (0, 1))
    weights = []
    for compiled in (False, True):
        compute = ComputeConfig(device="cpu", precision="float32", compile=compiled)
        train_config = TrainLoopConfig(compute=compute, optimizer=OptimizerConfig(name="sgd"))
        criterion = ClassificationLoss(train_config.loss, [1] * 4, torch.device("cpu"))
        trainer = Trainer(model, phase, train_config, 1, seed=0)
        for epoch in range(2):
            trainer.start_epoch(epoch)
            trainer.backward_and_step(criterion(trainer.forward(images), labels), 1)
        weights.append(trainer.finish().state_dict())
    eager, compiled_weights = weights
    assert all(torch.allclose(value, compiled_weights[name], atol=1e-4) for name, value in eager.items())
