"""What this machine cannot compute is refused before anything runs, and compiling changes no result."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft.compute.devices import enough_memory
from graft.config import ModelConfig
from graft.errors import ConfigError, TrainingError
from graft.learning.history import Phase
from graft.learning.learner import Learner
from graft.learning.objective import Objective
from graft.recipe import check
from graft.training_config import ComputeConfig, LoopConfig, OptimizerConfig, TrainingConfig

MODEL = ModelConfig(architecture="mobilenet_v3_small", weights="letters")


class Small(nn.Module):
    """Two stages and a head: soon compiled."""

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
    ("values", "words"),
    [
        ({"batch_size": 1}, "learn nothing from one image; give 2 or more"),
        ({"batch_size": 1, "batch_norm": "adapt", "strategy": "head_only"}, "learn nothing from one image"),
        ({"compute": ComputeConfig(device="cpu", precision="float16")}, "is 'float16', which is for CUDA"),
        ({"strategy": "last_stages", "fine_tune": {"unfrozen_stages": 99}}, "thaws 99 stages; .* give at most"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(MODEL, config(**values))


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (MODEL, {"batch_norm": "all_frozen"}),
        (MODEL, {"strategy": "head_only"}),
        (MODEL, {"fine_tune": {"lora": {"rank": 2}}}),
        (ModelConfig(architecture="squeezenet1_1", weights="none"), {}),
    ],
)
def test_single_images_are_taken_where_no_batch_norm_learns(model: ModelConfig, values: dict[str, Any]) -> None:
    check(model, config(batch_size=1, **values))


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr("torch.compile", lambda _: fail)
    with pytest.raises(ConfigError, match=r"cannot compile here .*no working C\+\+ compiler.*leave compile out"):
        check(MODEL, config(compute=ComputeConfig(compile=True)))


def test_a_batch_that_does_not_fit_the_device_says_what_to_lower() -> None:
    words = r"a batch of 64 images does not fit .* lower training.batch_size"
    with pytest.raises(TrainingError, match=words), enough_memory(64):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_training_learns_the_same_and_again_after_a_thaw() -> None:
    model, labels = Small(), torch.arange(8) % 4
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    phase = Phase("finetune", 2, 0.1, 0.5, None, (0, 1))
    kept = []
    for compiled in (False, True):
        compute = ComputeConfig(device="cpu", precision="float32", compile=compiled)
        loop = LoopConfig(compute=compute, optimizer=OptimizerConfig(name="sgd"))
        learner = Learner(model, phase, loop, 1, seed=0)
        for epoch in range(2):
            learner.begin(epoch)
            learner.learn(Objective(loop.loss, [1] * 4, torch.device("cpu"))(learner.forward(images), labels), 1)
        learner.keep()
        kept.append(learner.finish().state_dict())
    assert all(torch.allclose(one, kept[1][name], atol=1e-4) for name, one in kept[0].items())
